"""Low-rank adaptation: only a product of two thin matrices is trained beside each matrix of a trained model's blocks.

    adapt(model, rank=8)                    # in place, before training: all weights of the model stay as they are
    weights = merge_adapters(state_dict)    # after it: the weights of a plain model that computes the same

A matrix W becomes W + SCALE B A, where A has `rank` rows and B has `rank` columns (Hu et al. 2021, arXiv 2106.09685,
section 4.1). B begins at 0, so that the model does at first what it did. The optimizer keeps moments of A and B alone.
"""

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..lm.blocks import Block

SCALE = 2.0  # alpha / rank in the paper: the learning rate makes up for another one
ORIGINAL, A, B = (f".parametrizations.weight.{part}" for part in ("original", "0.a_RI", "0.b_OR"))


class LowRank(nn.Module):
    """A parametrization that adds a product of rank R to a matrix (O, I)."""

    def __init__(self, outputs: int, inputs: int, rank: int) -> None:
        super().__init__()
        self.a_RI = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.b_OR = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, own_OI: torch.Tensor) -> torch.Tensor:
        """Return the sum, in the shape of `own_OI`."""
        return own_OI + SCALE * self.b_OR @ self.a_RI


def adapt(model: nn.Module, rank: int) -> None:
    """Add the two matrices to each linear layer of the blocks, in place, and train nothing else."""
    model.requires_grad_(False)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for linear in [each for block in blocks for each in block.modules() if isinstance(each, nn.Linear)]:
        added = LowRank(linear.out_features, linear.in_features, rank).to(linear.weight.device)
        parametrize.register_parametrization(linear, "weight", added)


@torch.no_grad()
def merge_adapters(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of a plain model that computes the same as an adapted one with these weights."""
    plain = {name: tensor for name, tensor in weights.items() if ".parametrizations." not in name}
    for name in [name.removesuffix(ORIGINAL) for name in weights if name.endswith(ORIGINAL)]:
        own_OI, a_RI, b_OR = (weights[name + part] for part in (ORIGINAL, A, B))
        plain[f"{name}.weight"] = own_OI + SCALE * b_OR @ a_RI
    return plain
