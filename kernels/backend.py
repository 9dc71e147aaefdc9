"""Which implementation of an op runs: plain torch ("reference") or the Triton kernel ("triton").

    backend = pick_backend("attention", None, q_BSNE, unserved_heads(q_BSNE))

The argument beats $REELM_KERNELS, which beats the automatic choice: triton for CUDA tensors where triton is installed,
reference elsewhere. What a kernel cannot serve (a head_dim, a dtype) goes to the reference, however triton was chosen.
The choice is logged at INFO level, once for every wording.
"""

import functools
import importlib.util
import logging
import os

import torch

from ..core.errors import require
from ..core.protocols import Backend

VARIABLE = "REELM_KERNELS"
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
HEAD_DIMS = range(16, 129, 16)
# Looked up once, as torch.compile cannot trace the search; nothing is imported by it.
HAS_TRITON = importlib.util.find_spec("triton") is not None

_log = logging.getLogger(__name__)


def pick_backend(op: str, argument: str | None, tensor: torch.Tensor, reason: str | None = None) -> Backend:
    """The implementation of `op` to run on the device of `tensor`.

    Args:
        op: its name, for the log.
        argument: what the caller asked for: "reference", "triton" or None.
        tensor: one of the op's tensors.
        reason: what the kernel cannot do for these arguments, in words; None where it can do all.

    Raises:
        ReelmError: `argument` or $REELM_KERNELS is no backend, or is "triton" where Triton cannot run at all.
    """
    source, wish = ("backend", argument) if argument is not None else (VARIABLE, os.environ.get(VARIABLE) or "auto")
    known = ("reference", "triton") if argument is not None else ("auto", "reference", "triton")
    require(wish in known, source, f"must be one of {', '.join(known)}", wish)
    if wish == "auto":
        wish = "triton" if tensor.is_cuda and HAS_TRITON else "reference"
        source = f"automatic on {tensor.device.type}"
    elif wish == "triton":
        runnable = tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
        require(HAS_TRITON and runnable, source, "'triton' needs triton installed and CUDA tensors", tensor.device)
    if wish == "triton" and reason is not None:
        _say(f"{op} runs on the reference: its Triton kernel does not serve {reason}")
        return "reference"
    _say(f"{op} backend: {wish} ({source})")
    return "triton" if wish == "triton" else "reference"


def unserved_heads(x_E: torch.Tensor) -> str | None:
    """Why the attention kernels cannot take heads of this dtype and head_dim (the last axis), or None."""
    if x_E.shape[-1] not in HEAD_DIMS:
        return f"head_dim {x_E.shape[-1]}"
    return None if x_E.dtype in FLOATS else f"dtype {x_E.dtype}"


def _say(message: str) -> None:
    if not torch.compiler.is_compiling():  # tracing would stop at a log line
        _say_once(message)


@functools.cache
def _say_once(message: str) -> None:
    _log.info(message)
