"""What a model will take before it is loaded: a plan of the peak from config.json alone, and what fits.

    plan = plan_memory(config, seconds=20.0, batch=16)       # bytes by what they are for; print(plan) is a table
    require_memory(plan, available_memory(device))           # refuses before anything is allocated
    largest = fit_memory(config, available_bytes, seconds=20.0)          # the plan of the largest batch, or None

The plan asks the parts what they take (`LanguageModelConfig.cost`, tokenizer/codec_memory.py, sampling/sampler.py),
for clips of one length that are all drawn at once or `batch` at a time. What there is, core/memory.py finds out; calls
of a loaded model are held against it by admission.py. On a CPU the plan was held against the kernel's own count of a
process (tests/generation/test_memory_plan.py). On a GPU it is not measured: it counts the tensors on it, and not the
workspaces of its libraries.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from ..core.errors import ReelmError, require
from ..core.protocols import Numerics, Precision
from ..lm.quantization import pick_numerics
from ..sampling.decoders import make_decoder
from ..sampling.rules import SamplingConfig
from ..sampling.sampler import draw_bytes, noise_bytes
from ..tokenizer.codec_memory import pixel_bytes, tokenizer_bytes
from .pixels import AT_ONCE
from .pretrained import ModelConfig
from .request import DEFAULT_SECONDS, MAX_CLIPS, MAX_SECONDS

MIB = 2**20
# What a process grows by from `import reelm` to its first clip though the model is next to nothing. Measured as VmHWM
# after less VmRSS before, with a model of 80 thousand parameters: torch 2.13 for CPUs, Linux x86-64, Python 3.11 or
# later. Four fifths are the import of vector-quantize-pytorch, which pulls triton and torch.compile's machinery in; the
# rest is code of torch and oneDNN that is read from disk as it is first run.
CPU_RUNTIME = 176 * MIB


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
        loading: of the largest matrix while it is read and laid out, or made int8, beyond `weights`.
        cache: keys, values and newest tokens. On Linux the part that a clip shorter than the window never writes to
            is not there, so that such a clip takes less.
        noise: drawn ahead, and what drawing it takes.
        noise_held: of `noise`, what is still there when the tokens become pixels.
        step: the largest activations of a pass.
        pixels: decoding a latent frame of all clips.
        frames: the finished clips, and their tokens.
        joining: the second copy of the frames while those of a clip that is continued are put before them.
        state: what clips go on from.
        host: with a GPU, what the finished clips, their tokens and what they go on from take in the host's memory.
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
    host: int

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

    @property
    def call(self) -> int:
        """The bytes that sampling and decoding take beside a model that is loaded."""
        return max(size for name, size in self.phases.items() if name != "loading") - self.runtime - self.weights

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
    weights: Precision = "full",
    cache: Precision = "full",
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
        weights, cache: of the language model, "full" or "int8".
        device: "cpu" or "cuda": the kind alone counts, none need be here.
        keep_state: as for `generate`: by default where one clip is made.
        continuing: whether a clip is continued: whole latent frames are fed, and it may bring a state.

    Raises:
        ReelmError: an argument is out of its range.
    """
    require(device in ("cpu", "cuda"), "device", "must be 'cpu' or 'cuda'", device)
    numerics = pick_numerics(dtype, weights, cache, torch.device(device))
    return plan_loaded(
        config, numerics, seconds=seconds, batch=batch, clips=clips, sampling=sampling, block_size=block_size,
        keep_state=keep_state, continuing=continuing,
    )  # fmt: skip


def plan_loaded(
    config: ModelConfig,
    numerics: Numerics,
    *,
    seconds: float = DEFAULT_SECONDS,
    batch: int = 1,
    clips: int | None = None,
    sampling: SamplingConfig | None = None,
    block_size: int | None = None,
    keep_state: bool | None = None,
    continuing: bool = False,
) -> MemoryPlan:
    """As `plan_memory`, of a language model that computes in this way."""
    limit = 0 < seconds <= MAX_SECONDS
    require(limit, "seconds", f"must be above 0 and at most {MAX_SECONDS:.0f}", seconds)
    require(1 <= batch <= MAX_CLIPS, "batch", f"must be from 1 to {MAX_CLIPS}", batch)
    clips = batch if clips is None else clips
    require(batch <= clips <= MAX_CLIPS, "clips", f"must be from {batch} (batch) to {MAX_CLIPS}", clips)
    on_gpu, sampling, layout = numerics.device == "cuda", sampling or config.sampling, config.lm.layout
    rows = batch * (2 if sampling.guidance_scale != 1 else 1)
    name = "auto" if block_size is None else "jacobi"
    decoder = make_decoder(name, block_size, layout=layout, rows=rows, on_gpu=on_gpu)
    count: int = getattr(decoder, "block_size", 1)
    cost, tokenizer_size = config.lm.cost(rows, count, numerics), tokenizer_bytes(config.tokenizer)
    latent_frames = config.tokenizer.compression.latent_frames(max(1, round(seconds * config.fps)))
    noise, held = (0, 0) if on_gpu or sampling.temperature == 0 else noise_bytes(layout.vocab_size, batch, count)
    feed = config.lm.cost(rows, layout.frame_size, numerics).step if continuing else 0
    draw = draw_bytes(layout.vocab_size, rows, count, numerics.dtype, sampling)
    frames = clips * clip_bytes(config, latent_frames)
    joining = frames if continuing else 0
    kept = clips if (clips == 1 if keep_state is None else keep_state) else 0
    state = cost.state * rows // batch
    states = (kept + int(continuing)) * state
    return MemoryPlan(
        device=numerics.device, dtype=str(numerics.dtype).removeprefix("torch."), seconds=seconds, clips=clips,
        batch=batch, block_size=count,
        runtime=0 if on_gpu else CPU_RUNTIME,
        weights=cost.weights + tokenizer_size,
        loading=cost.loading,
        cache=cost.cache,
        noise=noise, noise_held=held,
        step=max(feed, cost.step, draw),
        pixels=pixel_bytes(config.tokenizer, min(clips, AT_ONCE), config.height, config.width),
        frames=0 if on_gpu else frames,
        joining=0 if on_gpu else joining,
        # On a GPU a state is copied one clip at a time, and lies in the host's memory then, as the frames do.
        state=min(kept, 1) * state if on_gpu else states,
        host=frames + joining + states if on_gpu else 0,
    )  # fmt: skip


def clip_bytes(config: ModelConfig, latent_frames: int) -> int:
    """The bytes of a finished clip: its frames and its tokens."""
    frames = config.tokenizer.compression.frames(latent_frames) * config.height * config.width * 3
    return frames + 8 * latent_frames * config.lm.layout.frame_size


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


def show_bytes(size: float) -> str:
    """In words: 1536 is "1.5 KiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
