"""What a model will take before it is loaded: a plan of the peak from config.json alone, and what fits.

    plan = plan_memory(config, seconds=20.0, batch=16)       # bytes by what they are for; print(plan) is a table
    require_memory(plan, available_memory(device))           # refuses before anything is allocated
    largest = fit_memory(config, available_bytes, seconds=20.0)          # the plan of the largest batch, or None

The formulas follow the code that allocates, tensor by tensor, for clips of one length that are all drawn at once or
`batch` at a time. On a CPU they were held against the kernel's own count of a process (tests/sampling/test_memory.py).
On a GPU they are not measured: they count the tensors on it, and not the workspaces of its libraries.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.device import pick_dtype
from ..core.errors import ReelmError, require
from ..lm.cache import RingCache
from ..lm.transformer import NEIGHBOURS, LMConfig, VideoTransformer
from ..tokenizer.model import Decoder, Encoder, TokenizerConfig
from .decoders import make_decoder
from .noise import NoiseAhead
from .pretrained import ModelConfig
from .request import DEFAULT_SECONDS, MAX_CLIPS, MAX_SECONDS
from .rules import SamplingConfig

MIB = 2**20
META = torch.device("meta")
# What a process grows by from `import reelm` to its first clip though the model is next to nothing. Measured as VmHWM
# after less VmRSS before, with a model of 80 thousand parameters: torch 2.13 for CPUs, Linux x86-64, Python 3.11 or
# later. Four fifths are the import of vector-quantize-pytorch, which pulls triton and torch.compile's machinery in; the
# rest is code of torch and oneDNN that is read from disk as it is first run.
CPU_RUNTIME = 176 * MIB
# What `gumbel_noise` holds for each number, five tensors of int64, and how many it makes at a time.
NOISE_BYTES, NOISE_AT_ONCE = 40, 2**17


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes on the device, by what they are for; printed as a table.

    Attributes:
        device, dtype: where the model runs, and the dtype of the language model.
        seconds: length of each clip, as wanted.
        clips, batch: how many in all, and at a time.
        block_size: positions that a pass looks at.
        runtime: of libraries that load with the first model; see CPU_RUNTIME. Not of the model.
        weights: of both networks.
        loading: of the files and the float32 copy while weights are read, beyond `weights`.
        cache: keys, values and newest tokens. On Linux the part that a clip shorter than the window never writes to
            is not there, so that such a clip takes less.
        noise: drawn ahead, and what drawing it takes.
        noise_held: of `noise`, what is still there when the tokens become pixels.
        step: the largest activations of a pass.
        pixels: decoding a latent frame of all clips.
        frames: the finished clips, and their tokens.
        joining: the second copy of the frames while those of a clip that is continued are put before them.
        state: what clips go on from.
    """

    device: str
    dtype: str
    seconds: float
    clips: int
    batch: int
    block_size: int
    runtime: int
    weights: int
    loading: int
    cache: int
    noise: int
    noise_held: int
    step: int
    pixels: int
    frames: int
    joining: int
    state: int

    @property
    def phases(self) -> dict[str, int]:
        """The bytes at the height of each phase, by its name."""
        loaded = self.runtime + self.weights
        drawn = loaded + self.cache + self.state
        return {
            "loading": loaded + self.loading,
            "sampling": drawn + self.noise + self.step,
            "decoding": drawn + self.noise_held + self.pixels + self.frames + self.joining,
        }

    @property
    def total(self) -> int:
        """The bytes at the height of all: phases follow one another, so that the largest counts."""
        return max(self.phases.values())

    def values(self) -> dict[str, Any]:
        """All figures, as JSON values."""
        return {**dataclasses.asdict(self), **{f"peak_{name}": size for name, size in self.phases.items()},
                "total": self.total}  # fmt: skip

    def __str__(self) -> str:
        plain = ("device", "dtype", "seconds", "clips", "batch", "block_size")
        return "\n".join(
            f"{name.replace('_', ' '):22}{value if name in plain else show_bytes(value)}"
            for name, value in self.values().items()
        )


def plan_memory(
    config: ModelConfig,
    *,
    seconds: float = DEFAULT_SECONDS,
    batch: int = 1,
    clips: int | None = None,
    sampling: SamplingConfig | None = None,
    block_size: int | None = None,
    dtype: str | torch.dtype = "auto",
    device: str = "cpu",
    keep_state: bool | None = None,
    continuing: bool = False,
) -> MemoryPlan:
    """The plan of `generate` with these arguments. Nothing is allocated, no file is read.

    Args:
        config: of the model; its weights are taken to lie in float16 on disk, as `save_pretrained` writes them.
        seconds: length of each clip.
        batch: clips at a time (`batch_size` of `generate`).
        clips: in all; as many as `batch` unless given.
        sampling: the model's own unless given; guidance doubles the rows.
        block_size: positions that a pass looks at, 1 for the sequential decoder; what "auto" takes unless given.
        dtype: of the language model, as for `load_pretrained`.
        device: "cpu" or "cuda": the kind alone counts, none need be here.
        keep_state: as for `generate`: by default where one clip is made.
        continuing: whether a clip is continued: whole latent frames are fed, and it may bring a state.

    Raises:
        ReelmError: an argument is out of its range.
    """
    limit = 0 < seconds <= MAX_SECONDS
    require(limit, "seconds", f"must be above 0 and at most {MAX_SECONDS:.0f}", seconds)
    require(1 <= batch <= MAX_CLIPS, "batch", f"must be from 1 to {MAX_CLIPS}", batch)
    clips = batch if clips is None else clips
    require(batch <= clips <= MAX_CLIPS, "clips", f"must be from {batch} (batch) to {MAX_CLIPS}", clips)
    require(device in ("cpu", "cuda"), "device", "must be 'cpu' or 'cuda'", device)
    on_gpu, sampling = device == "cuda", sampling or config.sampling
    kind = pick_dtype(dtype, torch.device(device))
    rows = batch * (2 if sampling.guidance_scale != 1 else 1)
    most = config.lm.frame_size
    decoder = make_decoder("auto" if block_size is None else "jacobi", block_size, most=most, rows=rows, on_gpu=on_gpu)
    count: int = getattr(decoder, "block_size", 1)
    with META:
        lm_size = sum(parameter.numel() for parameter in VideoTransformer(config.lm).parameters())
    tokenizer_bytes, cache = _tokenizer_bytes(config.tokenizer), RingCache(config.lm, rows, META, kind)
    compression = config.tokenizer.compression
    latent_frames = compression.latent_frames(max(1, round(seconds * config.fps)))
    noise, held = (0, 0) if on_gpu or sampling.temperature == 0 else _noise_bytes(config.lm.vocab_size, batch, count)
    feed = _step_bytes(config.lm, rows, most, kind, on_gpu) if continuing else 0
    step = _step_bytes(config.lm, rows, count, kind, on_gpu), _draw_bytes(config.lm, rows, count, kind, sampling)
    frames = clips * compression.frames(latent_frames) * config.height * config.width * 3
    tokens = clips * latent_frames * most * 8
    kept = clips if (clips == 1 if keep_state is None else keep_state) else 0
    # On a GPU a state is copied one clip at a time, and lies in the host's memory then, as the frames do.
    kept = min(kept, 1) if on_gpu else kept + int(continuing)
    pixels = _pixel_bytes(config, clips)
    return MemoryPlan(
        device=device, dtype=str(kind).removeprefix("torch."), seconds=seconds, clips=clips, batch=batch,
        block_size=count,
        runtime=0 if on_gpu else CPU_RUNTIME,
        weights=lm_size * kind.itemsize + tokenizer_bytes,
        # The files one after the other, beside both networks in float32; with a GPU all that is in the host's memory.
        loading=0 if on_gpu else lm_size * (4 - kind.itemsize) + max(2 * lm_size, tokenizer_bytes // 2),
        cache=cache.nbytes + cache.tokens_BR.nbytes,
        noise=noise, noise_held=held,
        step=max(feed, *step),
        pixels=pixels,
        frames=0 if on_gpu else frames + tokens,
        joining=frames if continuing else 0,
        state=kept * cache.nbytes // batch,
    )  # fmt: skip


def fit_memory(config: ModelConfig, available_bytes: int, **options: Any) -> MemoryPlan | None:
    """The plan of the largest batch that fits, or None where one clip does not.

    Args:
        config: of the model.
        available_bytes: see `available_memory`.
        options: those of `plan_memory` but `batch` and `clips`.
    """
    best, low, high = None, 1, MAX_CLIPS
    while low <= high:
        middle = (low + high) // 2
        plan = plan_memory(config, batch=middle, **options)
        if plan.total <= available_bytes:
            best, low = plan, middle + 1
        else:
            high = middle - 1
    return best


def require_memory(plan: MemoryPlan, available_bytes: int | None) -> None:
    """Refuse what does not fit; with None, what is there is not known and nothing is refused.

    Raises:
        ReelmError: it says what is wanted, what that takes, and what there is.
    """
    if available_bytes is not None and plan.total > available_bytes:
        phase = max(plan.phases, key=plan.phases.__getitem__)
        raise ReelmError(
            f"memory: must be at least {show_bytes(plan.total)} for {plan.clips} clips of {plan.seconds:g} s, "
            f"{plan.batch} at a time, in {plan.dtype} on {plan.device} (most while {phase}), "
            f"got {show_bytes(available_bytes)}"
        )


def available_memory(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that are free for this process, or None where the system does not tell.

    Of a GPU what its driver says; on Linux what the kernel says, or what the limits of this process's control groups
    (version 1 or 2) and of all groups around them leave, whichever is least. A group's cache of files counts as free.

    Args:
        device: the GPU, or the CPU.
        root: of the file system.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [_kernel_says(root / "proc/meminfo")]
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            top, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        # Within a container the path may be that of the host, and not be there; the top is always there.
        group = top / path.lstrip("/")
        groups = [group, *group.parents]
        free += [_group_leaves(folder, *names) for folder in groups[: groups.index(top) + 1]]
    return min((size for size in free if size is not None), default=None)


def show_bytes(size: float) -> str:
    """In words: 1536 is "1.5 KiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"


def _tokenizer_bytes(config: TokenizerConfig) -> int:
    """Of its weights, in float32 everywhere; the quantizer's codes are few, a learned codebook has its averages too."""
    with META:
        parts = (Encoder(config), Decoder(config))
    size = sum(parameter.numel() for part in parts for parameter in part.parameters())
    quantizer = config.quantizer
    codes = quantizer.vocab_size * (2 * quantizer.dim + 1 if quantizer.kind == "vq" else quantizer.dim)
    return 4 * (size + codes)


def _noise_bytes(vocab_size: int, batch: int, count: int) -> tuple[int, int]:
    """Of the noise ahead at its height, and once it is there (`NoiseAhead`, `gumbel_noise`)."""
    numbers = batch * NoiseAhead(vocab_size, META).block * vocab_size
    # The block before, the new one in parts, and the new one as a whole: of all clips where they advance together.
    # Those of a block decoder drift apart, so that few draw in one pass: from 2 on, and 3 if none does drift.
    together = batch == 1 or count == 1
    return (12 if together else 10) * numbers + NOISE_BYTES * min(numbers, NOISE_AT_ONCE), 4 * numbers


def _step_bytes(config: LMConfig, rows: int, count: int, kind: torch.dtype, on_gpu: bool) -> int:
    """Of the largest layer of a pass over `count` positions, or of its logits."""
    width, heads = config.width, (config.heads + config.kv_heads) * config.head_dim
    slots = config.prefix + (config.window + 1) * config.frame_size
    places = rows * count
    # The stream and its norm; then queries, keys and values, as they come, in float32, normalised, turned, split.
    attention = kind.itemsize * (2 * width + 3 * heads) + 4 * 3 * heads
    # Products in two parts, with the mask, and as weights; the Triton kernel keeps none of them.
    attention += 0 if on_gpu else 3 * max(4, kind.itemsize) * config.heads * slots
    mlp = kind.itemsize * (3 * width + 4 * config.hidden)
    video_input = len(NEIGHBOURS) * (kind.itemsize * config.neighbour_dim + 10 * 8)
    mask = 3 * 4 * slots
    return places * (mask + max(attention, mlp, video_input, kind.itemsize * (config.vocab_size + width)))


def _draw_bytes(config: LMConfig, rows: int, count: int, kind: torch.dtype, sampling: SamplingConfig) -> int:
    """Of the logits and of all that `sample_reference` makes of them."""
    clips = rows // 2 if sampling.guidance_scale != 1 else rows
    logits = rows * (kind.itemsize + (0 if kind == torch.float32 else 4))
    # The noise, the scores, those of them that are allowed, their sum; with top-p the order and its probabilities.
    return count * config.vocab_size * (logits + 4 * clips * (8 if sampling.top_p < 1 else 4))


def _pixel_bytes(config: ModelConfig, clips: int) -> int:
    """Of decoding one latent frame of each clip: the largest stage of the tokenizer's decoder, in float32.

    In a residual block the stage's input, the block's, its norm's output and the convolution's are there at once, and
    the convolution has its input and its output in oneDNN's layout too: six. The heap does not give all of it back at
    once: measured were 6.6 with 16 clips of the bundled model and 9 to 10 with 128.
    """
    tokenizer = config.tokenizer
    place, widths, most = config.lm.frame_size, tokenizer.decoder_widths, 0
    for index, width in enumerate(widths):
        most = max(most, 8 * width * place)
        if index + 1 < len(widths):  # the convolution, in both layouts, and its result as it is moved into space
            most = max(most, (3 * width + 3 * 4 * widths[index + 1]) * place)
            place *= 4
    pixels = 3 * tokenizer.temporal * config.height * config.width
    # The head: its input in both layouts beside the stage's, its output in both. Then frames: three of them in a row.
    most = max(most, 3 * widths[-1] * place + 2 * pixels, 4 * pixels)
    past = 3 * tokenizer.decoder_memory * widths[0] * config.lm.frame_size
    return 4 * clips * (most + past)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _kernel_says(path: Path) -> int | None:
    fields = (line.split() for line in _text(path).splitlines())
    return next((int(field[1]) * 1024 for field in fields if field[:1] == ["MemAvailable:"]), None)


def _group_leaves(folder: Path, limit_name: str, used_name: str) -> int | None:
    """What a control group's limit leaves; None where it has none."""
    limit, used = _number(_text(folder / limit_name)), _number(_text(folder / used_name))
    if limit is None or used is None or limit >= 2**60:  # version 1 writes a very large number for none
        return None
    stat = dict(line.split(maxsplit=1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
    files = _number(stat.get("total_inactive_file", stat.get("inactive_file", "0"))) or 0
    return max(0, limit - max(0, used - files))
