"""The check of an op's tensors, which is cheap for valid tensors since it runs in every layer of every pass."""

import torch

from ..core.errors import require


def check_tensor(
    name: str,
    tensor: torch.Tensor | None,
    shape: tuple[int, ...],
    dtypes: tuple[torch.dtype, ...],
    like: tuple[str, torch.Tensor],
) -> None:
    """Check the shape, dtype and device of a tensor.

    Args:
        name: The name of the tensor in error messages.
        tensor: The tensor; None is always valid.
        shape: The shape that it must have.
        dtypes: The dtypes that it may have.
        like: The name and the tensor whose device it must be on.

    Raises:
        ReelmError: The tensor does not match.
    """
    if tensor is None or (tensor.shape == shape and tensor.dtype in dtypes and tensor.device == like[1].device):
        return  # building the error messages below takes longer than the checks
    require(tensor.shape == shape, name, f"must have the shape {tuple(shape)}", tuple(tensor.shape))
    require(tensor.dtype in dtypes, name, f"must be {' or '.join(map(str, dtypes))}", tensor.dtype)
    require(tensor.device == like[1].device, name, f"must be on {like[1].device} as {like[0]} is", tensor.device)
