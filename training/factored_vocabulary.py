"""Factored tables for the token ids of FSQ: an id encodes one level of each channel of the latent.

    factor_vocabulary(model, levels=(8, 8, 8, 5))                 # before training
    weights = merge_factors(state_dict, levels=(8, 8, 8, 5))      # after it: the weights of an equivalent plain model

Two ids that differ in one channel's level stand for almost the same patch, but a plain table learns the row of each id
on its own. In training, the embedding of a token and its row in the head are therefore the sum of a row of its own and
a vector for each of its levels, so that what is learnt about one code carries over to its neighbours. The sum is
linear: after training it is folded into the rows, and the rest of the library sees a plain model.
"""

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..core.errors import require
from ..lm.transformer import VideoTransformer

TABLES = ("token_embedding", "head")  # the names of the model's modules
# The sums start about as large as plain rows do: the ids' own embeddings are scaled down, their rows in the head are 0.
OWN_SCALE, EMBEDDING_STD, HEAD_STD = 0.2, 0.25, 0.01


class FactoredTable(nn.Module):
    """A parametrization that adds to each row of a table the sum of the vectors of its id's levels.

    The table is (V, D), or (V + 1, D) with a last row that stands for no id and gets nothing added.
    """

    factors_VX: torch.Tensor  # for each id and channel, the row of `shared` with the vector of its level

    def __init__(self, levels: tuple[int, ...], width: int) -> None:
        super().__init__()
        strides = torch.tensor([1, *levels[:-1]]).cumprod(0)
        offsets = torch.tensor([0, *levels[:-1]]).cumsum(0)
        counts = torch.tensor(levels)
        ids_V1 = torch.arange(int(counts.prod()))[:, None]
        self.register_buffer("factors_VX", ids_V1 // strides % counts + offsets, persistent=False)
        self.shared = nn.Parameter(torch.zeros(sum(levels), width))

    def forward(self, own_VD: torch.Tensor) -> torch.Tensor:
        """Return the table of sums, in the shape of `own_VD`."""
        sums_VD = self.shared[self.factors_VX].sum(1)
        return own_VD + nn.functional.pad(sums_VD, (0, 0, 0, len(own_VD) - len(sums_VD)))


def factor_vocabulary(model: VideoTransformer, levels: tuple[int, ...], *, fresh: bool = True) -> None:
    """Replace the model's embedding and head by factored tables, in place.

    Args:
        model: The model to be trained.
        levels: The numbers of levels of the tokenizer's FSQ channels; their product is the size of the vocabulary.
        fresh: Whether the vectors of the levels are drawn at random. Otherwise they are 0, and the model computes what
            it did before.

    Raises:
        ReelmError: The product of the levels is not the size of the model's vocabulary.
    """
    size = int(torch.tensor(levels).prod())
    require(size == model.config.vocab_size, "levels", f"must have the product {model.config.vocab_size}", levels)
    for name, std in zip(TABLES, (EMBEDDING_STD, HEAD_STD), strict=True):
        module: nn.Module = getattr(model, name)
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        table = FactoredTable(levels, weight.shape[1]).to(weight.device)
        if fresh:
            with torch.no_grad():
                weight.mul_(OWN_SCALE if name == "token_embedding" else 0)
            nn.init.normal_(table.shared, std=std)
        parametrize.register_parametrization(module, "weight", table)


def merge_factors(weights: dict[str, torch.Tensor], levels: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Return the weights of a plain model that computes the same as a factored one with these weights."""
    plain = {name: tensor for name, tensor in weights.items() if ".parametrizations." not in name}
    for name in TABLES:
        own_VD, shared = (weights[f"{name}.parametrizations.weight.{part}"] for part in ("original", "0.shared"))
        table = FactoredTable(levels, own_VD.shape[1]).to(own_VD.device)
        with torch.no_grad():
            table.shared.copy_(shared)
            plain[f"{name}.weight"] = table(own_VD)
    return plain
