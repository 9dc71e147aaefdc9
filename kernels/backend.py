"""The choice of an op's implementation: plain torch ("reference") or the Triton kernel ("triton").

    backend = pick_backend("attention", None, q_BSNE, unserved_heads(q_BSNE))

The argument takes precedence over $REELM_KERNELS, and that over the automatic choice: "triton" for CUDA tensors if
Triton is installed, else "reference". Where OpenVINO is installed, small language models run their blocks in it on a
CPU (lm/compiled_blocks.py); `REELM_KERNELS=torch` leaves the ops to the automatic choice and the blocks to torch, and
`REELM_KERNELS=openvino` is an error where OpenVINO is missing.

If a kernel does not support the arguments (a head_dim or a dtype), the reference runs in any case. The choice is logged
at INFO level, each message once.
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
# This is looked up once, since torch.compile cannot trace the search; it imports nothing.
HAS_TRITON = importlib.util.find_spec("triton") is not None
HAS_OPENVINO = importlib.util.find_spec("openvino") is not None

_log = logging.getLogger(__name__)


def pick_backend(op: str, argument: str | None, tensor: torch.Tensor, reason: str | None = None) -> Backend:
    """Return the implementation of `op` to run on the device of `tensor`.

    Args:
        op: The name of the op, for the log.
        argument: The caller's choice: "reference", "triton" or None.
        tensor: One of the op's tensors.
        reason: A description of what the kernel does not support in these arguments; None if it supports them.

    Raises:
        ReelmError: `argument` or $REELM_KERNELS is not a backend, or is "triton" where Triton cannot run.
    """
    source, choice = ("backend", argument) if argument is not None else (VARIABLE, os.environ.get(VARIABLE) or "auto")
    known = ("reference", "triton") if argument is not None else ("auto", "reference", "triton", "openvino", "torch")
    require(choice in known, source, f"must be one of {', '.join(known)}", choice)
    require(choice != "openvino" or HAS_OPENVINO, source, "must not be 'openvino' where it is not installed", choice)
    if choice in ("auto", "openvino", "torch"):
        choice = "triton" if tensor.is_cuda and HAS_TRITON else "reference"
        source = f"automatic on {tensor.device.type}"
    elif choice == "triton":
        runnable = tensor.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
        require(HAS_TRITON and runnable, source, "'triton' needs triton installed and CUDA tensors", tensor.device)
    if choice == "triton" and reason is not None:
        _log_once(f"{op} runs on the reference: its Triton kernel does not serve {reason}")
        return "reference"
    _log_once(f"{op} backend: {choice} ({source})")
    return "triton" if choice == "triton" else "reference"


def openvino_is_chosen() -> bool:
    """Return whether OpenVINO is installed and $REELM_KERNELS does not choose anything else."""
    return HAS_OPENVINO and (os.environ.get(VARIABLE) or "auto") in ("auto", "openvino")


def unserved_heads(x_E: torch.Tensor) -> str | None:
    """Return why the attention kernels do not support this dtype or head_dim (the last axis); None if they do."""
    if x_E.shape[-1] not in HEAD_DIMS:
        return f"head_dim {x_E.shape[-1]}"
    return None if x_E.dtype in FLOATS else f"dtype {x_E.dtype}"


def _log_once(message: str) -> None:
    if not torch.compiler.is_compiling():  # a log call would break the traced graph
        _log_cached(message)


@functools.cache
def _log_cached(message: str) -> None:
    _log.info(message)
