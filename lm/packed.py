"""Linear layers whose weights are in the memory layout that the matrix kernels of this CPU read fastest.

    pack_linears(model)          # in place, for inference

A decoding step has few rows, so that most of its time goes into reading weights; oneDNN's blocked layout reduces that
time, by up to a half (docs/log.md). At the sizes of the bundled model a row's result does not depend on how many rows
are computed with it, so that one step over many tokens is bit-identical to many steps; `F.linear` does not ensure this
for fewer than four rows. Products of 2,048 x 2,048 were seen to differ in the last bits for a single row.
"""

import torch
from torch import nn


class PackedLinear(nn.Module):
    """A linear layer x @ weight.T for float32 on a CPU, without gradients; the weight has an opaque layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.weight = nn.Parameter(packed, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map inputs (…, in) to outputs (…, out)."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")
        return out


def can_pack(linear: nn.Linear) -> bool:
    """Return whether this build of torch can pack this layer, with its device and dtype."""
    weight, has_ops = linear.weight, hasattr(torch.ops.mkldnn, "_linear_pointwise")
    available = torch.backends.mkldnn.is_available() and has_ops
    return available and weight.device.type == "cpu" and weight.dtype == torch.float32 and linear.bias is None


def pack_linears(module: nn.Module) -> None:
    """Replace every linear layer inside `module` that can be packed by a `PackedLinear`."""
    for name, _ in list(module.named_parameters()):
        pack_weight(module, name)


def pack_weight(module: nn.Module, name: str) -> bool:
    """Replace the linear layer with the parameter `name` inside `module` by a `PackedLinear`.

    Returns:
        Whether the parameter is the weight of a linear layer that can be packed; otherwise nothing changes.
    """
    path, _, own = name.removesuffix(".weight").rpartition(".")
    parent = module.get_submodule(path)
    linear = getattr(parent, own)
    fits = isinstance(linear, nn.Linear) and can_pack(linear)
    if fits:
        setattr(parent, own, PackedLinear(linear))
    return fits
