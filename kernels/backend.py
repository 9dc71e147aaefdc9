"""Which implementation of an op runs: plain torch ("reference") or the Triton kernel ("triton").

    backend = pick_backend(None, q_BSNE, k_BSKE, v_BSKE)      # the argument, else $REELM_KERNELS, else automatic

Automatic is triton for CUDA tensors where triton is installed, and reference elsewhere. What the kernels cannot serve
(a head_dim, a dtype, a gradient) goes to the reference. The choice is logged at INFO level, once for every wording.
"""

import functools
import importlib.util
import logging
import os
from typing import Literal

import torch

from ..core.errors import require

Backend = Literal["reference", "triton"]

VARIABLE = "REELM_KERNELS"
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TRITON_HEAD_DIMS = range(16, 129, 16)

_log = logging.getLogger(__name__)


def pick_backend(argument: str | None, *tensors: torch.Tensor) -> Backend:
    """The implementation to run on `tensors`, of which the first is the queries (…, E).

    Raises:
        ReelmError: `argument` or $REELM_KERNELS is no backend, or is "triton" where Triton cannot run at all.
    """
    source, wish = ("backend", argument) if argument is not None else (VARIABLE, os.environ.get(VARIABLE) or "auto")
    known = ("reference", "triton") if argument is not None else ("auto", "reference", "triton")
    require(wish in known, source, f"must be one of {', '.join(known)}", wish)
    queries = tensors[0]
    if wish == "auto":
        wish = "triton" if queries.is_cuda and _has_triton() else "reference"
        source = f"automatic on {queries.device.type}"
    elif wish == "triton":
        runnable = queries.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
        require(_has_triton() and runnable, source, "'triton' needs triton installed and CUDA tensors", queries.device)
    reason = _unserved(tensors) if wish == "triton" else None
    if reason is not None:
        _say(f"attention runs on the reference: the Triton kernels do not serve {reason}")
        return "reference"
    _say(f"attention backend: {wish} ({source})")
    return "triton" if wish == "triton" else "reference"


def _unserved(tensors: tuple[torch.Tensor, ...]) -> str | None:
    """What the Triton kernels cannot do for these tensors, in words; None when they can do all."""
    queries = tensors[0]
    if queries.shape[-1] not in TRITON_HEAD_DIMS:
        return f"head_dim {queries.shape[-1]}"
    if queries.dtype not in TRITON_DTYPES:
        return f"dtype {queries.dtype}"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return "gradients"
    return None


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _say(message: str) -> None:
    _log.info(message)
