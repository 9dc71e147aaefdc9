"""Plan the peak memory of a model from config.json alone, before it is loaded, and find the batch that fits.

    plan = plan_memory(config, seconds=20.0, batch=16)       # bytes by purpose; print(plan) is a table
    require_memory(plan, available_memory(device))           # refuses before anything is allocated
    largest = fit_memory(config, available_bytes, seconds=20.0)          # the plan of the largest batch, or None

The plan adds up the memory of the parts (`LanguageModelConfig.cost`, tokenizer/codecs.py, sampling/sampler.py),
for clips of one length that are drawn all at once or `batch` at a time. core/memory.py finds the available memory;
admission.py compares calls of a loaded model with it. On a CPU the plan was compared with the kernel's count of a
process (tests/generation/test_memory_plan.py). On a GPU it is not measured: it counts the tensors there, and not the
workspaces of libraries.
"""

import dataclasses
from dataclasses import dataclass
from typing import Unpack

import torch

from ..core.errors import ReelmError, require
from ..core.json_values import Json
from ..core.protocols import Numerics, Precision
from ..lm.quantization import pick_numerics
from ..sampling.decoders import make_decoder
from ..sampling.plan import SamplingConfig
from ..sampling.sampler import draw_bytes, noise_bytes
from ..tokenizer.codecs import tokenizer_bytes
from .pixels import DECODE_CLIPS
from .pretrained import ModelConfig, NumericsOptions
from .request import DEFAULT_SECONDS, MAX_CLIPS, MAX_SECONDS

MIB = 2**20
# The growth of a process from `import reelm` to its first clip with a model of negligible size (80 thousand
# parameters): VmHWM after the clip minus VmRSS after the import, with torch 2.13 for CPUs, Linux x86-64, Python 3.11 or
# later. It is code of torch and oneDNN that is read from disk when it first runs: 31 MiB while the model is loaded, the
# rest with the first pass.
CPU_RUNTIME = 42 * MIB


class PlanOptions(NumericsOptions, total=False):
    """The options of `plan_memory` but `batch` and `clips`."""

    seconds: float
    sampling: SamplingConfig | None
    block_size: int | None
    device: str
    keep_state: bool | None
    continuing: bool


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The bytes on the device, by purpose; printed as a table.

    Attributes:
        device: The type of the device, "cpu" or "cuda".
        dtype: The dtype of the language model.
        seconds: The length of each clip, as requested.
        clips: The number of clips.
        batch: The number of clips drawn at a time.
        block_size: The number of positions that a pass looks at.
        runtime: The bytes of libraries that are loaded with the first model, not those of the model; see CPU_RUNTIME.
        weights: The bytes of the weights of both networks.
        loading: The bytes beyond `weights` of the largest matrix while it is read and laid out, or converted to int8.
        cache: The bytes of keys, values and newest tokens. Linux does not allocate the part that a clip shorter than
            the window never writes to, so that such a clip takes less.
        noise: The bytes of the noise buffer, and of computing it.
        noise_held: The part of `noise` that is still there while pixels are decoded.
        step: The bytes of the largest activations of a pass.
        pixels: The bytes of decoding a latent frame of all clips.
        frames: The bytes of the finished clips and their tokens.
        joining: The bytes of the second copy of the frames while the clip that is continued is put before them.
        state: The bytes of the cache states of the clips.
        host: With a GPU, the bytes of the finished clips, their tokens and states in the host's memory.
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
        """The bytes at the peak of each phase, by its name."""
        loaded = self.runtime + self.weights
        drawn = loaded + self.cache + self.state
        # A CPU's heap keeps the holes that the arrays of sampling leave, and decoding needs arrays of other sizes.
        left = self.step if self.device == "cpu" else 0
        return {
            "loading": loaded + self.loading,
            "sampling": drawn + self.noise + self.step,
            "decoding": drawn + self.noise_held + left + self.pixels + self.frames + self.joining,
        }

    @property
    def total(self) -> int:
        """The bytes at the peak of all phases; they follow one another, so that it is the largest one's."""
        return max(self.phases.values())

    @property
    def call(self) -> int:
        """The bytes that sampling and decoding take in addition to a loaded model."""
        return max(size for name, size in self.phases.items() if name != "loading") - self.runtime - self.weights

    def values(self) -> Json:
        """Return all figures, as JSON values."""
        return {**dataclasses.asdict(self), **{f"peak_{name}": size for name, size in self.phases.items()},
                "total": self.total}  # fmt: skip

    def __str__(self) -> str:
        other = ("device", "dtype", "seconds", "clips", "batch", "block_size")
        return "\n".join(
            f"{name.replace('_', ' '):22}{show_bytes(value) if isinstance(value, int) and name not in other else value}"
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
    """Return the plan of `generate` with these arguments. Nothing is allocated, no file is read.

    Args:
        config: The config of the model, whose weights are assumed to be in float16 on disk, as `save_pretrained` writes
            them.
        seconds: The length of each clip.
        batch: The number of clips drawn at a time (`batch_size` of `generate`).
        clips: The number of clips; `batch` by default.
        sampling: The sampling settings, by default the model's; guidance in two rows doubles the rows.
        block_size: The number of positions that a pass looks at, 1 for the sequential decoder; that of "auto" by
            default.
        dtype: The dtype of the language model, as in `load_pretrained`.
        weights: The precision of the language model's matrices, "full" or "int8".
        cache: The precision of keys and values, "full" or "int8".
        device: The type of the device, "cpu" or "cuda"; it need not be present.
        keep_state: Whether clips get a state, as in `generate`; by default a single clip does.
        continuing: Whether a clip is continued: whole latent frames are read, and it may have a state.

    Raises:
        ReelmError: An argument is out of its range.
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
    """Return the plan of a loaded language model with these numerics; see `plan_memory`."""
    limit = 0 < seconds <= MAX_SECONDS
    require(limit, "seconds", f"must be above 0 and at most {MAX_SECONDS:.0f}", seconds)
    require(1 <= batch <= MAX_CLIPS, "batch", f"must be from 1 to {MAX_CLIPS}", batch)
    clips = batch if clips is None else clips
    require(batch <= clips <= MAX_CLIPS, "clips", f"must be from {batch} (batch) to {MAX_CLIPS}", clips)
    on_gpu, sampling, layout = numerics.device == "cuda", sampling or config.sampling, config.lm.layout
    rows = batch * sampling.rows(config.lm.guidance)
    name = "auto" if block_size is None else "jacobi"
    decoder = make_decoder(name, block_size, layout=layout, rows=rows, on_gpu=on_gpu)
    count: int = getattr(decoder, "block_size", 1)
    cost, tokenizer_size = config.lm.cost(rows, count, numerics), tokenizer_bytes(config.tokenizer)
    latent_frames = config.tokenizer.compression.latent_frames(max(1, round(seconds * config.fps)))
    vocab_size = layout.sampled_vocab_size
    noise, held = (0, 0) if on_gpu else noise_bytes(vocab_size, batch, count, sampling)
    read = config.lm.cost(rows, layout.frame_size, numerics).step if continuing else 0
    draw = draw_bytes(vocab_size, rows, batch, count, numerics.dtype, sampling=sampling)
    frames = clips * clip_bytes(config, latent_frames)
    joining = frames if continuing else 0
    kept = clips if (clips == 1 if keep_state is None else keep_state) else 0
    state = cost.state * rows // batch
    states = (kept + int(continuing)) * state
    return MemoryPlan(
        device=numerics.device, dtype=str(numerics.dtype).removeprefix("torch."), seconds=seconds, clips=clips,
        batch=batch, block_size=count,
        runtime=cost.runtime + (0 if on_gpu else CPU_RUNTIME),
        weights=cost.weights + tokenizer_size,
        loading=cost.loading,
        cache=cost.cache,
        noise=noise, noise_held=held,
        step=max(read, cost.step, draw),
        pixels=config.tokenizer.pixel_bytes(min(clips, DECODE_CLIPS), config.height, config.width),
        frames=0 if on_gpu else frames,
        joining=0 if on_gpu else joining,
        # On a GPU a state is copied one clip at a time to the host's memory, where the frames are too.
        state=min(kept, 1) * state if on_gpu else states,
        host=frames + joining + states if on_gpu else 0,
    )  # fmt: skip


def clip_bytes(config: ModelConfig, latent_frames: int) -> int:
    """Return the bytes of a finished clip: its frames and its tokens."""
    frames = config.tokenizer.compression.frames(latent_frames) * config.height * config.width * 3
    return frames + 8 * latent_frames * config.lm.layout.frame_size


def fit_memory(config: ModelConfig, available_bytes: int, **options: Unpack[PlanOptions]) -> MemoryPlan | None:
    """Return the plan of the largest batch that fits, or None where not even one clip does.

    Args:
        config: The config of the model.
        available_bytes: The available memory; see `available_memory`.
        options: The options of `plan_memory` but `batch` and `clips`.
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
    """Refuse a plan that does not fit; None means that the available memory is unknown, and refuses nothing.

    Raises:
        ReelmError: The message states the required memory, what it is for, and the available memory.
    """
    if available_bytes is not None and plan.total > available_bytes:
        phase = max(plan.phases, key=plan.phases.__getitem__)
        raise ReelmError(
            f"memory: must be at least {show_bytes(plan.total)} for {plan.clips} clips of {plan.seconds:g} s, "
            f"{plan.batch} at a time, in {plan.dtype} on {plan.device} (most while {phase}), "
            f"got {show_bytes(available_bytes)}"
        )


def show_bytes(size: float) -> str:
    """Return a size as text: 1536 is "1.5 KiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
