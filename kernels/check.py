"""The check of an op's tensors: cheap while all is well, since it runs in every layer of every step."""

import torch

from ..core.errors import require


def check_tensor(
    name: str,
    tensor: torch.Tensor | None,
    shape: tuple[int, ...],
    dtypes: tuple[torch.dtype, ...],
    like: tuple[str, torch.Tensor],
) -> None:
    """Refuse a tensor of another shape or dtype, or on another device than the named tensor `like`; None passes.

    Raises:
        ReelmError: it does not fit.
    """
    if tensor is None or (tensor.shape == shape and tensor.dtype in dtypes and tensor.device == like[1].device):
        return  # before any refusal is worded, which would take longer than the looking
    require(tensor.shape == shape, name, f"must have the shape {tuple(shape)}", tuple(tensor.shape))
    require(tensor.dtype in dtypes, name, f"must be {' or '.join(map(str, dtypes))}", tensor.dtype)
    require(tensor.device == like[1].device, name, f"must be on {like[1].device} as {like[0]} is", tensor.device)
