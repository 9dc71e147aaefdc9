"""Linear layers whose weights are int8: for large models, whose time is reading weights.

    check_precision(Numerics(weights="int8"))             # refuses what there is no product for
    quantise_linears(model)                               # in place, for inference

Weights have a scale for each output. Embeddings and norms stay as they are.

On a CPU inputs are int8 too, with a scale for each row, found as they come: a row's result has the same bits beside any
other rows, since sums of int8 products are exact in int32. A layer is off by about 1% of its result's length. The
inputs go as uint8 around 128, the form that oneDNN has a fast product for. It needs VNNI: without it a CPU adds pairs
of such products in int16, which overflows.

On a GPU inputs stay as they are, and the weights are made floating-point numbers where they are multiplied
(kernels/int8_linear.py). Those of the bundled model are off by 0.7 to 0.9%.
"""

from typing import get_args

import torch
from torch import nn

from ..core.device import pick_dtype
from ..core.errors import require
from ..core.protocols import Numerics, Precision
from ..kernels.backend import HAS_TRITON
from ..kernels.int8_linear import int8_linear
from ..kernels.quantize import quantise

# A row of zeros is divided by this; smaller numbers count as zero.
LEAST = 1e-30


class Int8Weights(nn.Module):
    """About x @ weight.T for any floating-point inputs, without gradients."""

    scales_O: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        whole_OI, scales_O = quantise(linear.weight.detach())
        self.weight = nn.Parameter(whole_OI, requires_grad=False)
        self.register_buffer("scales_O", scales_O, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out)."""
        return int8_linear(x.flatten(0, -2), self.weight, self.scales_O).unflatten(0, x.shape[:-1])


class Int8Linear(nn.Module):
    """About x @ weight.T for float32 on a CPU, both in int8, without gradients; the weight is opaque."""

    scales_O: torch.Tensor
    zeros_O: torch.Tensor
    middle: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight_OI = linear.weight.detach()
        scales_O = (weight_OI.abs().amax(1) / 127).clamp_min_(LEAST)
        whole_OI = (weight_OI / scales_O[:, None]).round_().to(torch.int8)
        self.weight = nn.Parameter(torch.ops.onednn.qlinear_prepack(whole_OI, None), requires_grad=False)
        self.register_buffer("scales_O", scales_O / 127, persistent=False)
        self.register_buffer("zeros_O", torch.zeros(len(scales_O), dtype=torch.int64), persistent=False)
        # 128, and a half so that cutting off the fraction rounds.
        self.register_buffer("middle", torch.tensor(128.5), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(…, in) to (…, out)."""
        # vector_norm takes ten times as long as these two.
        most = x.abs().amax(-1, keepdim=True).clamp_min_(LEAST)
        whole = torch.addcmul(self.middle, x, 127 / most).to(torch.uint8)
        out: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, 128, self.weight, self.scales_O, self.zeros_O, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return out.mul_(most)


def pick_numerics(dtype: str | torch.dtype, weights: Precision, cache: Precision, device: torch.device) -> Numerics:
    """How a language model computes on this device, from names; "auto" is the dtype that the device is best with.

    Raises:
        ReelmError: a name is unknown, or there is no product of these weights in this dtype.
    """
    numerics = Numerics(dtype=pick_dtype(dtype, device), weights=weights, cache=cache, device=device.type)
    check_precision(numerics)
    return numerics


def check_precision(numerics: Numerics) -> None:
    """Refuse precisions that are none, and weights that the device and dtype have no product for."""
    known = get_args(Precision)
    for name, precision in (("weights", numerics.weights), ("cache", numerics.cache)):
        require(precision in known, name, f"must be one of {', '.join(known)}", precision)
    fits = numerics.weights == "full" or numerics.device != "cpu" or numerics.dtype == torch.float32
    rule = "must be 'full' on a CPU unless dtype is float32"
    require(fits, "weights", rule, (numerics.weights, str(numerics.dtype)))


def check_machine(weights: str, device: str) -> None:
    """Refuse int8 weights where they would be wrong or slow: on a CPU without their products, on a GPU without Triton.

    Args:
        weights: "full" or "int8".
        device: "cpu" or "cuda".
    """
    if weights == "int8" and device != "cpu":
        require(HAS_TRITON, "weights", "must be 'full' on a GPU where triton is not installed", weights)
    elif weights == "int8":
        here = torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")
        require(here, "weights", "must be 'full': this torch has no int8 products of oneDNN", weights)
        vnni = torch.cpu._is_vnni_supported()
        require(vnni, "weights", "must be 'full' on a CPU without VNNI, whose int8 products overflow", weights)


def quantise_linears(module: nn.Module, layer: type[nn.Module] | None = None) -> None:
    """Put an int8 layer in the place of every linear layer inside `module`; all are without bias.

    Args:
        module: of a model.
        layer: `Int8Linear` or `Int8Weights`; by default what the device of the weights is fast with.
    """
    for name, _ in list(module.named_parameters()):
        quantise_weight(module, name, layer)


def quantise_weight(module: nn.Module, name: str, layer: type[nn.Module] | None = None) -> bool:
    """The same for the one parameter of this name inside `module`; whether it is the weight of a linear layer."""
    path, _, own = name.removesuffix(".weight").rpartition(".")
    parent = module.get_submodule(path)
    linear = getattr(parent, own)
    if not isinstance(linear, nn.Linear):
        return False
    assert linear.bias is None
    on_cpu = linear.weight.device.type == "cpu"
    setattr(parent, own, (layer or (Int8Linear if on_cpu else Int8Weights))(linear))
    return True
