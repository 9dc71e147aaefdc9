"""The variants of our own in which a benchmark draws the same clips, and whether each computes the right logits.

variants, left_out = own_variants(parts, chosen, sampling, batch)       # left_out: {name of a row: why it is not there}
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
from ..lm.packed import PackedLinear
from ..sampling.decoder import Decoder
from ..sampling.engine import Engine
from ..sampling.noise_keys import NoiseKey
from ..sampling.plan import ClipPlan
from ..sampling.rules import SamplingConfig
from ..sampling.teacher import TeacherForcing

DEFAULT, SEQUENTIAL, BY_FRAMES = "reelm", "reelm sequential", "reelm jacobi, a latent frame"
REFERENCE, COMPILED = "reelm sequential, reference ops", "reelm sequential, torch.compile"
LARGEST_BLOCK = 256  # tokens of a latent frame up to which whole latent frames are a row
CHECKED_POSITIONS = 64  # of the second latent frame: what is seen there is the prefix, a past frame, and the own one


@dataclass(frozen=True)
class Variant:
    """A way to draw clips.

    Attributes:
        name: of its row.
        decoder: how tokens are found.
        lm: the model, or a copy with another backend or a step of its own.
        same_bits: whether its logits are those of the model's own step, so that in float32 its tokens must be too.
        remark: what is special about it.
    """

    name: str
    decoder: Decoder
    lm: LanguageModel
    same_bits: bool = True
    remark: str = ""


def own_variants(
    parts: Pretrained, chosen: Decoder, sampling: SamplingConfig, batch: int, *, compiled: bool
) -> tuple[list[Variant], dict[str, str]]:
    """The default variant, the oracle if that is another one, whole latent frames; without Triton where it is in use;
    compiled where that works.

    Args:
        parts: the model.
        chosen: decoder of the default variant.
        sampling: how tokens are drawn.
        batch: clips at once.
        compiled: whether there is time to compile.
    """
    sequential = pick_decoder(parts, "sequential", None, sampling, batch)
    variants, left_out = [Variant(DEFAULT, chosen, parts.lm)], dict[str, str]()
    if chosen.name != sequential.name:
        variants.append(Variant(SEQUENTIAL, sequential, parts.lm))
    size = parts.lm.layout.frame_size
    if size <= LARGEST_BLOCK:
        variants.append(Variant(BY_FRAMES, pick_decoder(parts, "jacobi", size, sampling, batch), parts.lm))
    else:
        left_out[BY_FRAMES] = f"a latent frame of {size} tokens is more than {LARGEST_BLOCK}"
    on_gpu = torch.empty(0, device=parts.lm.device)
    plain = parts.lm
    if pick_backend("decode_attention", parts.lm.backend, on_gpu) == "triton":
        plain = copy.copy(parts.lm)
        plain.backend = "reference"
        variants.append(Variant(REFERENCE, sequential, plain, same_bits=False, remark="no Triton"))
    if not compiled:
        left_out[COMPILED] = "compiling takes longer than a check may"
        return variants, left_out
    rows = batch * (1 if sampling.guidance_scale == 1 else 2)
    made = compile_step(parts, plain, rows)
    if isinstance(made, str):
        left_out[COMPILED] = made
    else:
        remark = "inductor, plain torch ops"
        variants.append(Variant(COMPILED, sequential, made, same_bits=False, remark=remark))
    return variants, left_out


@torch.no_grad()
def compile_step(parts: Pretrained, model: LanguageModel, rows: int) -> LanguageModel | str:
    """A model with a step that `torch.compile` has made for so many rows and one position, or why there is none."""
    if parts.lm.numerics.weights == "int8":
        return "its int8 weights have products of their own"
    if not isinstance(model, nn.Module):
        return "it is no module of torch"
    packed = any(isinstance(module, PackedLinear) for module in model.modules())
    needed, free = parts.lm.cost(1, 1).weights if packed else 0, available_memory(parts.lm.device)
    if free is not None and needed > free:
        return f"it needs the weights once more, unpacked: {show_bytes(needed)} of {show_bytes(free)} that are free"
    if importlib.util.find_spec("torch._inductor") is None:
        return "this torch has no inductor"
    try:
        lm = _unpacked(model)
        # The whole step or nothing: in pieces it is slow, and past its limit of variants dynamo would run eagerly.
        step = torch.compile(lm.step, dynamic=False, fullgraph=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step(lm.make_cache(rows), 1)
    except Exception as error:  # whatever a compiler may say
        return f"torch.compile failed: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    lm.step = step
    compiled: LanguageModel = lm
    return compiled


def _unpacked(module: Any) -> Any:
    """The same module with plain linear layers, which a compiler can look into; other weights are shared."""
    if isinstance(module, PackedLinear):
        linear = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(module.weight.to_dense(), requires_grad=False)
        return linear
    other = copy.copy(module)
    other._modules = {name: child and _unpacked(child) for name, child in module._modules.items()}
    return other


@torch.no_grad()
def logits_difference(
    parts: Pretrained, variant: Variant, request: Request, tokens_tS: torch.Tensor
) -> tuple[float, float]:
    """How far the logits of a variant, pass by pass as it samples, are from those of one masked pass in plain torch.

    Args:
        parts: the model.
        variant: its passes look at as many positions as its decoder does; the waves of a diagonal are not among them.
        request: the clips, of which each is taken to be the same, under the first prompt of the first one.
        tokens_tS: that clip, as written; its first frame is read, and the positions after it are compared.

    Returns:
        The largest difference, and the largest logit.
    """
    layout, clips = parts.lm.layout, len(request.plans)
    tokens_tS = tokens_tS.to(parts.lm.device)
    plan = ClipPlan(prompts=((0, request.plans[0].prompt_at(0)),), key=NoiseKey(0))
    first = 1 if len(tokens_tS) > 1 else 0
    start = first * layout.frame_size
    count = min(tokens_tS.numel(), start + CHECKED_POSITIONS)
    plain = copy.copy(parts.lm)
    plain.backend = "reference"
    wanted_SV = plain.oracle(tokens_tS.flatten()[None, :count], [plan.conditions_at(0)])[0].float()
    known_BS = tokens_tS.flatten()[start:count].expand(clips, -1)
    forced = TeacherForcing(known_BS, getattr(variant.decoder, "block_size", 1))
    engine = Engine(variant.lm, request.sampling, capacity=clips, decoder=forced)
    for _ in range(clips):
        engine.add(plan, tokens_tS[:first])
    at, difference = start, 0.0
    while at < count:
        engine.step()
        logits_RLV = forced.logits_RLV[:clips].float()
        end = at + logits_RLV.shape[1]
        # Of ids that a place cannot have, the engine leaves no logits to compare.
        allowed_LV = layout.allowed_SV[torch.arange(at, end) % layout.frame_size].to(logits_RLV.device)
        difference = max(difference, float(((logits_RLV - wanted_SV[at:end]) * allowed_LV).abs().max()))
        at = end
    return difference, float(wanted_SV.abs().max())
