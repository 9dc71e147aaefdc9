"""The ways of ours in which a benchmark draws the same clips, and whether each computes the right logits.

ways, left_out = own_ways(parts, chosen, sampling, batch)       # left_out: {name of a row: why it is not there}
difference, largest = logits_difference(parts, way, prompt, tokens_thw, rows)
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
from .passes import Decoder
from .pretrained import Pretrained
from .request import pick_decoder
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
        return "the products of its int8 weights are oneDNN's already"
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
def logits_difference(
    parts: Pretrained, way: Way, prompt: str, tokens_thw: torch.Tensor, rows: int
) -> tuple[float, float]:
    """How far the logits of a way, step by step, are from those of one masked pass in plain torch.

    Args:
        parts: the model.
        way: its steps look at as many positions as its decoder does.
        prompt: of the clip.
        tokens_thw: a clip; its first frame is read, and the positions after it are compared.
        rows: of the cache, all with the same clip.

    Returns:
        The largest difference, and the largest logit.
    """
    config, weight, size = parts.config.lm, next(parts.lm.parameters()), parts.config.lm.frame_size
    tokens_S = tokens_thw.flatten()
    first = size if len(tokens_S) > size else 0
    tokens_RS = tokens_S[: first + CHECKED_POSITIONS].expand(rows, -1)
    text_RP, lengths_R = (part.to(weight.device) for part in parts.text.prefix([prompt] * rows, config.prefix))
    with Way("", way.decoder, parts.lm, reference=True).ops():
        wanted_SV = parts.lm(tokens_RS[:1, None], text_RP[:1], lengths_R[:1])[0].float()
    cache, difference = parts.lm.make_cache(rows), 0.0
    with way.ops():
        parts.lm.prefill(cache, text_RP, lengths_R)
        for start in range(0, first, CHECKED_POSITIONS):
            read_RL = tokens_RS[:, start : min(start + CHECKED_POSITIONS, first)]
            cache.put_tokens(read_RL)
            parts.lm.step(cache, read_RL.shape[1])
            cache.advance(read_RL.shape[1])
        at, most = first, getattr(way.decoder, "block_size", 1)
        while at < tokens_RS.shape[1]:
            count = min(most, tokens_RS.shape[1] - at)
            cache.put_tokens(tokens_RS[:, at : at + count])
            logits_RLV = way.lm.step(cache, count)
            difference = max(difference, float((logits_RLV.float() - wanted_SV[at : at + count]).abs().max()))
            cache.advance(count)
            at += count
    return difference, float(wanted_SV.abs().max())
