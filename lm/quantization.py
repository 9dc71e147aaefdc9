"""Linear layers with int8 weights, for large models, which spend most of their time reading weights.

    check_precision(Numerics(weights="int8"))             # raises an error where int8 weights are not supported
    quantize_linears(model)                               # in place, for inference
    save_tensors(path, stored(model.state_dict(), "int8"))          # what is loaded is floating-point again

Weights have a scale for each output. Embeddings and norms keep their dtype.

On a CPU inputs become int8 too, with a scale for each row that is computed at run time. Sums of int8 products are exact
in int32, so that a row's result is bit-identical whatever other rows are computed with it. The error of a layer is
about 1% of the norm of its result. Inputs are passed as uint8 with a zero point of 128, for which oneDNN has a fast
product. It needs VNNI: without it a CPU adds pairs of such products in int16, which overflows.

On a GPU inputs keep their dtype, and weights are converted to floating-point numbers inside the product
(kernels/int8_linear.py). The error of the bundled model's weights is 0.7 to 0.9%.
"""

from collections.abc import Mapping
from typing import get_args

import torch
from torch import nn

from ..core.checkpoint import SCALES
from ..core.device import pick_dtype
from ..core.errors import require
from ..core.protocols import Numerics, Precision, Storage
from ..kernels.backend import HAS_TRITON
from ..kernels.int8_linear import int8_linear
from ..kernels.quantize import quantize

# The smallest divisor, for rows of zeros; smaller numbers count as zero.
MIN_DIVISOR = 1e-30


class Int8Weights(nn.Module):
    """A linear layer x @ weight.T with int8 weights and any floating-point inputs, without gradients."""

    scales_O: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        int8_OI, scales_O = quantize(linear.weight.detach())
        self.weight = nn.Parameter(int8_OI, requires_grad=False)
        self.register_buffer("scales_O", scales_O, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map inputs (…, in) to outputs (…, out)."""
        return int8_linear(x.flatten(0, -2), self.weight, self.scales_O).unflatten(0, x.shape[:-1])


class Int8Linear(nn.Module):
    """A linear layer x @ weight.T for float32 on a CPU that multiplies in int8, without gradients.

    The weight has an opaque layout.
    """

    scales_O: torch.Tensor
    zeros_O: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight_OI = linear.weight.detach()
        scales_O = (weight_OI.abs().amax(1) / 127).clamp_min_(MIN_DIVISOR)
        int8_OI = (weight_OI / scales_O[:, None]).round_().to(torch.int8)
        self.weight = nn.Parameter(torch.ops.onednn.qlinear_prepack(int8_OI, None), requires_grad=False)
        self.register_buffer("scales_O", scales_O / 127, persistent=False)
        self.register_buffer("zeros_O", torch.zeros(len(scales_O), dtype=torch.int64), persistent=False)
        # 128, plus a half so that truncation rounds.
        self.register_buffer("zero_point", torch.tensor(128.5), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map inputs (…, in) to outputs (…, out)."""
        # `vector_norm` takes ten times as long as `abs` and `amax`.
        largest = x.abs().amax(-1, keepdim=True).clamp_min_(MIN_DIVISOR)
        inputs = torch.addcmul(self.zero_point, x, 127 / largest).to(torch.uint8)
        out: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            inputs, 1.0, 128, self.weight, self.scales_O, self.zeros_O, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return out.mul_(largest)


def stored(weights: Mapping[str, torch.Tensor], store: Storage) -> dict[str, torch.Tensor]:
    """Return weights as they are written to a file, which `load_weights` reads.

    Args:
        weights: The weights by name.
        store: "float16", or "int8" with a scale for each row of a matrix; other tensors are in float16 then, too.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        if store == "int8" and tensor.is_floating_point() and tensor.ndim == 2:
            tensors[name], tensors[name + SCALES] = quantize(tensor)
        else:
            tensors[name] = tensor.half() if tensor.is_floating_point() else tensor
    return tensors


def pick_numerics(
    dtype: str | torch.dtype, weights: Precision, cache: Precision, device: torch.device, processes: int = 1
) -> Numerics:  # fmt: skip
    """Return the numerics of a language model from the names of a dtype and of precisions.

    Args:
        dtype: A dtype or its name; "auto" is the best one for the device.
        weights: The precision of the weight matrices.
        cache: The precision of the cache.
        device: The device of the model.
        processes: The number of processes that hold it together.

    Raises:
        ReelmError: A name is unknown, or weights of this precision are not supported in this dtype.
    """
    require(processes >= 1, "processes", "must be at least 1", processes)
    numerics = Numerics(
        dtype=pick_dtype(dtype, device), weights=weights, cache=cache, device=device.type, processes=processes
    )
    check_precision(numerics)
    return numerics


def check_precision(numerics: Numerics) -> None:
    """Raise a `ReelmError` for unknown precisions, and for weights that the device and dtype do not support."""
    known = get_args(Precision)
    for name, precision in (("weights", numerics.weights), ("cache", numerics.cache)):
        require(precision in known, name, f"must be one of {', '.join(known)}", precision)
    fits = numerics.weights == "full" or numerics.device != "cpu" or numerics.dtype == torch.float32
    rule = "must be 'full' on a CPU unless dtype is float32"
    require(fits, "weights", rule, (numerics.weights, str(numerics.dtype)))


def check_machine(weights: str, device: str) -> None:
    """Raise a `ReelmError` for int8 weights on a CPU without fast and exact int8 products or a GPU without Triton.

    Args:
        weights: The precision of the weights, "full" or "int8".
        device: The type of the device, "cpu" or "cuda".
    """
    if weights == "int8" and device != "cpu":
        require(HAS_TRITON, "weights", "must be 'full' on a GPU where triton is not installed", weights)
    elif weights == "int8":
        available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.onednn, "qlinear_pointwise")
        require(available, "weights", "must be 'full': this torch has no int8 products of oneDNN", weights)
        vnni = torch.cpu._is_vnni_supported()
        require(vnni, "weights", "must be 'full' on a CPU without VNNI, whose int8 products overflow", weights)


def quantize_linears(module: nn.Module, layer: type[nn.Module] | None = None) -> None:
    """Replace every linear layer inside `module` by an int8 layer; none of them may have a bias.

    Args:
        module: The model, or a part of it.
        layer: The class of the new layers, `Int8Linear` or `Int8Weights`; by default the fast one for the device.
    """
    for name, _ in list(module.named_parameters()):
        quantize_weight(module, name, layer)


def quantize_weight(module: nn.Module, name: str, layer: type[nn.Module] | None = None) -> bool:
    """Replace the linear layer with the parameter `name` inside `module` by an int8 layer.

    Returns:
        Whether the parameter is the weight of a linear layer; otherwise nothing changes.
    """
    path, _, own = name.removesuffix(".weight").rpartition(".")
    parent = module.get_submodule(path)
    linear = getattr(parent, own)
    if not isinstance(linear, nn.Linear):
        return False
    assert linear.bias is None
    on_cpu = linear.weight.device.type == "cpu"
    setattr(parent, own, (layer or (Int8Linear if on_cpu else Int8Weights))(linear))
    return True
