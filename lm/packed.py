"""Linear layers whose weights lie the way this CPU's matrix kernels read them.

    pack_linears(model)          # in place, for inference

A decoding step has few rows, so that most of its time goes into reading weights; from oneDNN's blocked layout that
takes less, down to half as long (docs/log.md). At the sizes of the bundled model a row's result does not depend on how
many rows are with it, which `F.linear` does not keep for fewer than four: a step of many tokens has the bits of many
steps. Products of 2,048 x 2,048 were seen to differ in the last bits for a single row.
"""

import torch
from torch import nn


class PackedLinear(nn.Module):
    """x @ weight.T for float32 on a CPU, without gradients; the weight is opaque."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self.weight = nn.Parameter(packed, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out)."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], "")
        return out


def can_pack(linear: nn.Linear) -> bool:
    """Whether this torch and this layer's device and dtype have a packed form."""
    weight, has_ops = linear.weight, hasattr(torch.ops.mkldnn, "_linear_pointwise")
    here = torch.backends.mkldnn.is_available() and has_ops
    return here and weight.device.type == "cpu" and weight.dtype == torch.float32 and linear.bias is None


def pack_linears(module: nn.Module) -> None:
    """Put a `PackedLinear` in the place of every linear layer inside `module` that has a packed form."""
    for name, _ in list(module.named_parameters()):
        pack_weight(module, name)


def pack_weight(module: nn.Module, name: str) -> bool:
    """The same for the one parameter of this name inside `module`; whether it is the weight of such a layer."""
    path, _, own = name.removesuffix(".weight").rpartition(".")
    parent = module.get_submodule(path)
    linear = getattr(parent, own)
    fits = isinstance(linear, nn.Linear) and can_pack(linear)
    if fits:
        setattr(parent, own, PackedLinear(linear))
    return fits
