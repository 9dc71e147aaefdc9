"""Presets: models of well-known sizes with random weights, for measuring speed without a checkpoint.

    generator = preset_generator("cosmos-4b", device="cuda")  # refused before allocation if it does not fit
    print(benchmark(generator, seconds=0.2))
    print(preset_plan("cosmos-4b", device="cuda"))

`llama-27m` is of no published model: a Llama of 27 million parameters, as small models for CPUs have, whose clips are
those of the bundled model. The others are:

| | cosmos-4b | emu3-8b |
|---|---|---|
| named after | NVIDIA Cosmos-Predict1 autoregressive, 4B | Emu3, 8.5B, as transformers implements it |
| as in the original | 16 layers, width 4096, 32 query and 8 key/value heads of 128, SwiGLU of 14,336, 64,000 tokens, latent frames of 40 x 64 tokens of 8 x 16 x 16 pixels, five of them | 32 layers, the same layer, 32,768 visual tokens of 4 x 8 x 8 pixels, at most 9,216 positions |
| unlike the original | the rest of reelm's model: a token's input is computed from its neighbours, not from one embedding, text is a prefix, the window slides (the original stops after five latent frames) | the same, and: a head over visual tokens only (of 184,622), latent frames of 32 x 32, a window of nine (9,216 positions), no delimiters |
| sampling | temperature 1, top-p 0.8, no guidance, as in the original | temperature 1, guidance 3: two rows per clip |

So the weights of the layers (and of the head of cosmos-4b) and the cache that a token reads are as large as in the
original, and so is the time of a token; the tokens themselves are meaningless. The tokenizer has the compression and
vocabulary of the original, but is small and random too. Its speed says nothing about the original tokenizer, so the
benchmark of a preset decodes no pixels.
"""  # noqa: E501 (a table)

import dataclasses
from typing import Any, Unpack

import torch

from ..core.device import pick_device, pick_dtype
from ..core.errors import require
from ..core.memory import available_memory
from ..core.protocols import Numerics, Precision
from ..generation.generator import VideoGenerator
from ..generation.memory_plan import MemoryPlan, PlanOptions, plan_memory, require_memory
from ..generation.pretrained import ModelConfig, Pretrained
from ..lm.lm_config import LMConfig
from ..lm.loading import random_transformer
from ..lm.quantization import check_machine, pick_numerics
from ..lm.text import TextEncoder, train_text
from ..sampling.plan import SamplingConfig
from ..tokenizer.codecs import make_codec
from ..tokenizer.quantizer import QuantizerConfig
from ..tokenizer.tokenizer_config import TokenizerConfig

_LAYER: dict[str, Any] = {"width": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "hidden": 14336}
_TOKENIZER: dict[str, Any] = {"encoder_width": 32, "decoder_widths": (32, 16, 8), "decoder_depth": (1, 1, 1)}
_PRESETS = {
    "cosmos-4b": ModelConfig(
        format=1, fps=25.0, height=640, width=1024,
        tokenizer=TokenizerConfig(
            temporal=8, spatial=16, quantizer=QuantizerConfig(levels=(8, 8, 8, 5, 5, 5)), **_TOKENIZER
        ),
        lm=LMConfig(vocab_size=64000, rows=40, columns=64, window=5, depth=16, **_LAYER),
        sampling=SamplingConfig(guidance_scale=1.0, top_p=0.8),
    ),
    "emu3-8b": ModelConfig(
        format=1, fps=8.0, height=256, width=256,
        tokenizer=TokenizerConfig(
            temporal=4, spatial=8, **_TOKENIZER,
            quantizer=QuantizerConfig(kind="vq", codebook_size=32768, codebook_dim=4),
        ),
        lm=LMConfig(vocab_size=32768, rows=32, columns=32, window=9, depth=32, **_LAYER),
        sampling=SamplingConfig(guidance_scale=3.0),
    ),
    "llama-27m": ModelConfig(
        format=1, fps=8.0, height=64, width=64,
        tokenizer=TokenizerConfig(temporal=4, spatial=8, quantizer=QuantizerConfig(levels=(8, 8, 8, 8)), **_TOKENIZER),
        lm=LMConfig(
            vocab_size=4096, rows=8, columns=8, window=5, depth=8, width=512, heads=8, kv_heads=4, head_dim=64,
            hidden=1408,
        ),
        sampling=SamplingConfig(guidance_scale=1.0),
    ),
}  # fmt: skip
PRESETS = tuple(_PRESETS)
PRECISIONS: tuple[Precision, Precision] = ("int8", "full")


def preset_config(name: str, *, check: bool = False) -> ModelConfig:
    """Return the config of a preset.

    Args:
        name: The name of the preset, one of PRESETS.
        check: Whether to reduce it to a width of 128, two layers and 1/8 of the rows and columns, at least two, which
            tests whether it runs.
    """
    require(name in _PRESETS, "preset", f"must be one of {', '.join(PRESETS)}", name)
    config = _PRESETS[name]
    if not check:
        return config
    sizes = _sizes(config)
    lm = dataclasses.replace(
        sizes, rows=max(2, sizes.rows // 8), columns=max(2, sizes.columns // 8), width=128, depth=2, heads=4,
        kv_heads=1, head_dim=32, hidden=448,
    )  # fmt: skip
    side = config.tokenizer.compression
    return dataclasses.replace(config, lm=lm, height=lm.rows * side.h, width=lm.columns * side.w)


def _sizes(config: ModelConfig) -> LMConfig:
    """Return the sizes of a preset's language model, narrowed to the class that every preset uses."""
    assert isinstance(config.lm, LMConfig)
    return config.lm


def preset_plan(name: str, *, check: bool = False, batch: int = 1, **options: Unpack[PlanOptions]) -> MemoryPlan:
    """Plan the memory of clips of a preset, whose weights are drawn, not read from files.

    Args:
        name: The name of the preset, one of PRESETS.
        check: Whether to reduce the preset; see `preset_config`.
        batch: The number of clips.
        options: The other options of `plan_memory`.
    """
    config = preset_config(name, check=check)
    plan = plan_memory(config, batch=batch, **options)
    dtype = pick_dtype(plan.dtype, torch.device(plan.device))
    if options.get("weights") == "int8":
        return dataclasses.replace(plan, loading=_quantizing_bytes(_sizes(config), dtype, on_gpu=plan.device != "cpu"))
    # No file is read, and only float32 matrices are packed into another layout, which takes memory while loading.
    return plan if dtype == torch.float32 else dataclasses.replace(plan, loading=0)


def _quantizing_bytes(config: LMConfig, dtype: torch.dtype, *, on_gpu: bool) -> int:
    """Return the peak bytes, beyond the int8 weights, of quantizing the matrices one after the other, the head last.

    On a GPU three float32 copies of a matrix exist at once: the original, the one divided by its scales, the rounded.
    """
    int8, full = (config.cost(1, 1, Numerics(dtype=dtype, weights=precision)).weights for precision in PRECISIONS)
    head, layer = config.width * config.vocab_size, 2 * config.width * config.hidden
    if not on_gpu:
        return full - int8 + 6 * max(head, layer)
    return max(full - int8 + 3 * 4 * layer, head * (dtype.itemsize - 1) + 3 * 4 * head)


def preset_generator(
    preset: str, *, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto",
    weights: Precision = "full", cache: Precision = "full", check: bool = False,
) -> VideoGenerator:  # fmt: skip
    """Make a generator with a preset's random weights, for benchmarks; see `preset_parts`."""
    return VideoGenerator(preset_parts(preset, device=device, dtype=dtype, weights=weights, cache=cache, check=check))


@torch.no_grad()
def preset_parts(
    name: str, *, device: str | torch.device = "auto", dtype: str | torch.dtype = "auto", weights: Precision = "full",
    cache: Precision = "full", check: bool = False,
) -> Pretrained:  # fmt: skip
    """Make a preset with random weights, which are the same every time on one device.

    Args:
        name: The name of the preset, one of PRESETS.
        device, dtype, weights, cache: The arguments of `load_pretrained`.
        check: Whether to reduce the preset; see `preset_config`.

    Raises:
        ReelmError: The name is unknown, or the preset does not fit into memory; nothing was allocated.
    """
    config, target = preset_config(name, check=check), pick_device(device)
    numerics = pick_numerics(dtype, weights, cache, target)
    check_machine(weights, target.type)
    plan = preset_plan(
        name, check=check, seconds=0.01, keep_state=False, dtype=numerics.dtype, weights=numerics.weights,
        cache=numerics.cache, device=numerics.device,
    )  # fmt: skip
    require_memory(plan, available_memory(target))
    text = TextEncoder(train_text(["a clip of random weights"]))
    lm = random_transformer(_sizes(config), target, numerics, text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer: Any = make_codec(config.tokenizer)
    label = f"{name}, random weights" + (", reduced for a check" if check else "")
    return Pretrained(
        label, "random", "random", config, tokenizer.to(target).eval().requires_grad_(False), lm, random=True
    )
