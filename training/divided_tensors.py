"""Tensors of which each process may have a part (`torch.distributed.tensor`), beside those that it has whole.

whole(part_of(tensor, like))                            # the tensor again; all processes must ask for it
"""

import torch


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of which each process may have a part; all processes must ask for it."""
    gather = getattr(tensor, "full_tensor", None)
    found: torch.Tensor = tensor if gather is None else gather()
    return found


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this process has of a tensor, in the same memory."""
    own = getattr(tensor, "to_local", None)
    found: torch.Tensor = tensor if own is None else own()
    return found


def part_of(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return this process's part of a whole tensor, as it has one of another tensor."""
    if not hasattr(like, "device_mesh"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
