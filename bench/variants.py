"""The variants of reelm in which a benchmark draws the same clips, and a check of each variant's logits.

variants, left_out = own_variants(parts, chosen, sampling, batch, compiled=True)     # left_out: {name of a row: reason}
difference, largest = logits_difference(parts, variant, request, tokens_tS)
"""

import copy
import importlib.util
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..core.memory import available_memory
from ..core.protocols import LanguageModel
from ..generation.memory_plan import show_bytes
from ..generation.pretrained import Pretrained
from ..generation.request import Request, pick_decoder
from ..kernels.backend import pick_backend
from ..lm.blocks import PackedLinear
from ..sampling.decoder import Decoder
from ..sampling.engine import Engine
from ..sampling.plan import ClipPlan, NoiseKey, SamplingConfig
from ..sampling.teacher import TeacherForcing

DEFAULT, SEQUENTIAL, BY_FRAMES = "reelm", "reelm sequential", "reelm jacobi, a latent frame"
REFERENCE, COMPILED = "reelm sequential, reference ops", "reelm sequential, torch.compile"
LARGEST_BLOCK = 256  # tokens of the largest latent frame that `jacobi` draws whole as a row
# Positions of the second latent frame that are checked; they see the prefix, a past latent frame and their own one.
CHECKED_POSITIONS = 64


@dataclass(frozen=True)
class Variant:
    """A decoder and a language model that draw clips, as one row of a benchmark.

    Attributes:
        name: The name of the row.
        decoder: The decoder that finds the tokens.
        lm: The model that draws (`SamplingConfig.chosen`), or a copy of it with another backend or another step.
        same_bits: Whether it uses the model's own step, so that in float32 its tokens must be the same.
        remark: The part of the row's note that describes the copy.
    """

    name: str
    decoder: Decoder
    lm: LanguageModel
    same_bits: bool = True
    remark: str = ""


def default_variant(parts: Pretrained, decoder: Decoder, sampling: SamplingConfig) -> Variant:
    """Return the variant with which `generate` draws clips under these settings."""
    return Variant(DEFAULT, decoder, sampling.chosen(parts.lm)[0])


def own_variants(
    parts: Pretrained, chosen: Decoder, sampling: SamplingConfig, batch: int, *, compiled: bool
) -> tuple[list[Variant], dict[str, str]]:
    """Return the variants that can run here, and the reasons why others are left out.

    These are the default variant; `sequential`, unless that is the default; `jacobi` over whole latent frames, unless
    these are large; `sequential` without Triton, where Triton is in use; and `sequential` compiled by torch.

    Args:
        parts: The parts of the model.
        chosen: The decoder of the default variant.
        sampling: The settings by which tokens are drawn.
        batch: The number of clips at once.
        compiled: Whether to compile a variant, which takes a while.
    """
    sequential = pick_decoder(parts, "sequential", None, sampling, batch)
    variants, left_out = [default_variant(parts, chosen, sampling)], dict[str, str]()
    plain = variants[0].lm
    if chosen.name != sequential.name:
        variants.append(Variant(SEQUENTIAL, sequential, plain))
    size = parts.lm.layout.frame_size
    if size <= LARGEST_BLOCK:
        variants.append(Variant(BY_FRAMES, pick_decoder(parts, "jacobi", size, sampling, batch), plain))
    else:
        left_out[BY_FRAMES] = f"a latent frame of {size} tokens is more than {LARGEST_BLOCK}"
    example = torch.empty(0, device=parts.lm.device)
    if pick_backend("decode_attention", plain.backend, example) == "triton":
        plain = copy.copy(plain)
        plain.backend = "reference"
        variants.append(Variant(REFERENCE, sequential, plain, same_bits=False, remark="no Triton"))
    if not compiled:
        left_out[COMPILED] = "compiling takes too long for a check"
        return variants, left_out
    rows = batch * sampling.rows(parts.lm.guidance)
    result = compile_step(parts, plain, rows)
    if isinstance(result, str):
        left_out[COMPILED] = result
    else:
        remark = "inductor, plain torch ops"
        variants.append(Variant(COMPILED, sequential, result, same_bits=False, remark=remark))
    return variants, left_out


@torch.no_grad()
def compile_step(parts: Pretrained, model: LanguageModel, rows: int) -> LanguageModel | str:
    """Compile the step of a model for so many rows and one position; return the model, or the reason of a failure."""
    if parts.lm.numerics.weights == "int8":
        return "its int8 weights have their own matrix products"
    if not isinstance(model, nn.Module):
        return "it is not a torch module"
    packed = any(isinstance(module, PackedLinear) for module in model.modules())
    needed, free = model.cost(1, 1).weights if packed else 0, available_memory(parts.lm.device)
    if free is not None and needed > free:
        return f"it needs the weights once more, unpacked: {show_bytes(needed)} of {show_bytes(free)} that are free"
    if importlib.util.find_spec("torch._inductor") is None:
        return "this torch has no inductor"
    try:
        lm = _unpacked(model)
        # fullgraph: a step in several graphs is slow, and above its recompilation limit dynamo would run eagerly.
        step = torch.compile(lm.step, dynamic=False, fullgraph=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step(lm.make_cache(rows), 1)
    except Exception as error:  # a compiler can raise anything
        return f"torch.compile failed: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    lm.step = step
    compiled: LanguageModel = lm
    return compiled


def _unpacked(module: Any) -> Any:
    """Copy a module with plain linear layers, which a compiler can optimize; all other weights are shared."""
    if isinstance(module, PackedLinear):
        linear = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(module.weight.to_dense(), requires_grad=False)
        return linear
    copied = copy.copy(module)
    # A model's `guided` one is another model, which stays as it is.
    copied._modules = {
        name: child if child is None or name == "guided" else _unpacked(child)
        for name, child in module._modules.items()
    }
    return copied


@torch.no_grad()
def logits_difference(
    parts: Pretrained, variant: Variant, request: Request, tokens_tS: torch.Tensor
) -> tuple[float, float]:
    """Compare the logits of a variant's sampling passes with those of one masked pass in plain torch.

    Args:
        parts: The parts of the model.
        variant: The variant; a pass computes as many positions as its decoder's block, and the waves of `diagonal` are
            not checked.
        request: The request whose batch size and first prompt are used; all clips of the batch are the same one.
        tokens_tS: The tokens of that clip in writing order. Its first latent frame is prefilled, and the positions
            after it are compared.

    Returns:
        The largest difference, and the largest logit.
    """
    layout, clips = parts.lm.layout, len(request.plans)
    tokens_tS = tokens_tS.to(parts.lm.device)
    plan = ClipPlan(prompts=((0, request.plans[0].prompt_at(0)),), key=NoiseKey(0))
    first = 1 if len(tokens_tS) > 1 else 0
    start = first * layout.frame_size
    count = min(tokens_tS.numel(), start + CHECKED_POSITIONS)
    drawing, settings = request.sampling.chosen(parts.lm)
    plain = copy.copy(drawing)
    plain.backend = "reference"
    expected_SV = plain.oracle(tokens_tS.flatten()[None, :count], [plan.conditions_at(0)])[0].float()
    forced_BS = tokens_tS.flatten()[start:count].expand(clips, -1)
    forced = TeacherForcing(forced_BS, getattr(variant.decoder, "block_size", 1))
    engine = Engine(variant.lm, settings, capacity=clips, decoder=forced)
    for _ in range(clips):
        engine.add(plan, tokens_tS[:first])
    position, difference = start, 0.0
    while position < count:
        engine.step()
        logits_RLV = forced.logits_RLV[:clips].float()
        end = position + logits_RLV.shape[1]
        # The engine masks the logits of ids that a position cannot have, so these are not compared.
        allowed_LV = layout.allowed_SV[torch.arange(position, end) % layout.frame_size, : layout.sampled_vocab_size]
        allowed_LV = allowed_LV.to(logits_RLV.device)
        difference = max(difference, float(((logits_RLV - expected_SV[position:end]) * allowed_LV).abs().max()))
        position = end
    return difference, float(expected_SV.abs().max())
