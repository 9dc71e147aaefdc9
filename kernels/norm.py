"""Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467), as fast as torch alone makes it.

    y = rms_norm(x, weight, 1e-6)

`F.rms_norm` is one kernel on a GPU, but a chain of small ones on a CPU, where a decoding step spends a seventh of its
time in it. Without gradients the chain is shorter here.
"""

import torch
import torch.nn.functional as F
from torch import nn


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis; `weight` may have further axes before it."""
    lean = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not torch.is_grad_enabled()
    if not lean:
        return F.rms_norm(x, x.shape[-1:], None, epsilon) * weight if weight.ndim > 1 else F.rms_norm(
            x, x.shape[-1:], weight, epsilon
        )  # fmt: skip
    scale = torch.linalg.vecdot(x, x).div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return (x * scale.unsqueeze(-1)).mul_(weight)


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` by `rms_norm`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, D) to the same shape."""
        assert self.eps is not None
        return rms_norm(x, self.weight, self.eps)
