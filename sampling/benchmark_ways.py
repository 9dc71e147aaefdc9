"""The ways of ours in which a benchmark draws the same clips, and whether each computes the right logits.

ways, left_out = own_ways(parts, chosen, sampling, batch)       # left_out: {name of a row: why it is not there}
difference, largest = logits_difference(parts, way, request, tokens_thw)
"""

import contextlib
import copy
import importlib.util
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..kernels.backend import VARIABLE, pick_backend
from ..lm.packed import PackedLinear
from ..lm.transformer import VideoTransformer
from .machine import available_memory
from .memory import show_bytes
from .memory_sizes import lm_parameters
from .noise import NoiseKey
from .passes import Decoder
from .plan import ClipPlan
from .pretrained import Pretrained
from .request import Request, pick_decoder
from .rollout import Rollout
from .rules import SamplingConfig

DEFAULT, SEQUENTIAL, BY_FRAMES = "reelm", "reelm sequential", "reelm jacobi, a latent frame"
REFERENCE, COMPILED = "reelm sequential, reference ops", "reelm sequential, torch.compile"
LARGEST_BLOCK = 256  # tokens of a latent frame up to which whole latent frames are a row
CHECKED_POSITIONS = 64  # of the second latent frame: what is seen there is the prefix, a past frame, and the own one


@dataclass(frozen=True)
class Way:
    """A way to draw clips.

    Attributes:
        name: of its row.
        decoder: how tokens are found.
        lm: the model, or one with a step of its own.
        reference: whether the ops run in plain torch, whatever the device.
        same_bits: whether its logits are those of the model's own step, so that in float32 its tokens must be too.
        says: what is special about it.
    """

    name: str
    decoder: Decoder
    lm: VideoTransformer
    reference: bool = False
    same_bits: bool = True
    says: str = ""

    @contextlib.contextmanager
    def ops(self) -> Iterator[None]:
        """The ops of this way are chosen inside."""
        before = os.environ.get(VARIABLE)
        if self.reference:
            os.environ[VARIABLE] = "reference"
        try:
            yield
        finally:
            if self.reference:
                os.environ.pop(VARIABLE)
                os.environ.update({} if before is None else {VARIABLE: before})


def own_ways(
    parts: Pretrained, chosen: Decoder, sampling: SamplingConfig, batch: int, *, compiled: bool
) -> tuple[list[Way], dict[str, str]]:
    """The default way, the oracle if that is another one, whole latent frames; without Triton where it is in use;
    compiled where that works.

    Args:
        parts: the model.
        chosen: decoder of the default way.
        sampling: how tokens are drawn.
        batch: clips at once.
        compiled: whether there is time to compile.
    """
    sequential = pick_decoder(parts, "sequential", None, sampling, batch)
    ways, left_out = [Way(DEFAULT, chosen, parts.lm)], dict[str, str]()
    if chosen.name != sequential.name:
        ways.append(Way(SEQUENTIAL, sequential, parts.lm))
    size = parts.config.lm.frame_size
    if size <= LARGEST_BLOCK:
        ways.append(Way(BY_FRAMES, pick_decoder(parts, "jacobi", size, sampling, batch), parts.lm))
    else:
        left_out[BY_FRAMES] = f"a latent frame of {size} tokens is more than {LARGEST_BLOCK}"
    triton = pick_backend("decode_attention", None, next(parts.lm.parameters())) == "triton"
    if triton:
        ways.append(Way(REFERENCE, sequential, parts.lm, reference=True, same_bits=False, says="no Triton"))
    if not compiled:
        left_out[COMPILED] = "compiling takes longer than a check may"
        return ways, left_out
    rows = batch * (1 if sampling.guidance_scale == 1 else 2)
    way = Way(COMPILED, sequential, parts.lm, reference=triton, same_bits=False, says="inductor, plain torch ops")
    with way.ops():
        made = compile_step(parts, rows)
    if isinstance(made, str):
        left_out[COMPILED] = made
    else:
        ways.append(Way(COMPILED, sequential, made, reference=triton, same_bits=False, says=way.says))
    return ways, left_out


@torch.no_grad()
def compile_step(parts: Pretrained, rows: int) -> VideoTransformer | str:
    """The model with a step that `torch.compile` has made for so many rows and one position, or why there is none."""
    weight, config = next(parts.lm.parameters()), parts.config.lm
    if parts.kinds["weights"] == "int8":
        return "its int8 weights have products of their own"
    packed = any(isinstance(module, PackedLinear) for module in parts.lm.modules())
    needed, free = lm_parameters(config) * weight.element_size() if packed else 0, available_memory(weight.device)
    if free is not None and needed > free:
        return f"it needs the weights once more, unpacked: {show_bytes(needed)} of {show_bytes(free)} that are free"
    if importlib.util.find_spec("torch._inductor") is None:
        return "this torch has no inductor"
    try:
        lm = _unpacked(parts.lm)
        # The whole step or nothing: in pieces it is slow, and past its limit of variants dynamo would run eagerly.
        step = torch.compile(lm.step, dynamic=False, fullgraph=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step(lm.make_cache(rows), 1)
    except Exception as error:  # whatever a compiler may say
        return f"torch.compile failed: {type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    lm.step = step
    compiled: VideoTransformer = lm
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
def logits_difference(parts: Pretrained, way: Way, request: Request, tokens_thw: torch.Tensor) -> tuple[float, float]:
    """How far the logits of a way, pass by pass as it samples, are from those of one masked pass in plain torch.

    Args:
        parts: the model.
        way: its passes look at as many positions as its decoder does; the waves of a diagonal are not among them.
        request: the clips, of which each is taken to be the same, under the first prompt of the first one.
        tokens_thw: that clip; its first frame is read, and the positions after it are compared.

    Returns:
        The largest difference, and the largest logit.
    """
    config, device, size = parts.config.lm, next(parts.lm.parameters()).device, parts.config.lm.frame_size
    prompt, tokens_1thw = request.plans[0].prompt_at(0), tokens_thw[None].to(device)
    tokens_S = parts.lm.in_order(tokens_1thw)[0]
    first = size if len(tokens_S) > size else 0
    clips, count = len(request.plans), min(len(tokens_S), first + CHECKED_POSITIONS)
    text_1P, lengths_1 = (part.to(device) for part in parts.text.prefix([prompt], config.prefix))
    with Way("", way.decoder, parts.lm, reference=True).ops():
        wanted_SV = parts.lm.logits(tokens_S[None, :count], text_1P, lengths_1)[0].float()
    plans = [ClipPlan(prompts=((0, prompt),), key=NoiseKey(0, row)) for row in range(clips)]
    with way.ops():
        rollout = Rollout(way.lm, parts.text, plans, request.sampling, decoder=way.decoder)
        if first:
            rollout.feed(tokens_1thw[:, :1].expand(clips, -1, -1, -1))
        at, difference = first, 0.0
        while at < count:
            tokens_BL = tokens_S[at : min(at + getattr(way.decoder, "block_size", 1), count)].expand(clips, -1)
            rollout.accept(tokens_BL, [0] * clips)  # as drafts, so that the pass sees them
            logits_RLV = rollout.logits(tokens_BL.shape[1])[:clips].float()
            difference = max(difference, float((logits_RLV - wanted_SV[at : at + tokens_BL.shape[1]]).abs().max()))
            rollout.accept(tokens_BL, [tokens_BL.shape[1]] * clips)
            at += tokens_BL.shape[1]
    return difference, float(wanted_SV.abs().max())
