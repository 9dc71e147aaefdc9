"""Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467) in plain torch, optimised for CPUs.

    y = rms_norm(x, weight, 1e-6)

`F.rms_norm` is one kernel on a GPU but a chain of small operations on a CPU, where a decoding step spends a seventh of
its time in them. Without gradients, fewer operations are needed.
"""

import torch
import torch.nn.functional as F
from torch import nn


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return x / sqrt(mean(x^2) + epsilon) * weight over the last axis; `weight` may have further axes before it."""
    fast = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not torch.is_grad_enabled()
    if not fast:
        return F.rms_norm(x, x.shape[-1:], None, epsilon) * weight if weight.ndim > 1 else F.rms_norm(
            x, x.shape[-1:], weight, epsilon
        )  # fmt: skip
    scale = torch.linalg.vecdot(x, x).div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return (x * scale.unsqueeze(-1)).mul_(weight)


class RMSNorm(nn.RMSNorm):
    """An `nn.RMSNorm` that is computed by `rms_norm`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalised x (…, D), in the same shape."""
        assert self.eps is not None
        return rms_norm(x, self.weight, self.eps)
