"""What token ids share: FSQ's ids are numbers whose digits are the levels of the latent's channels.

    factor_vocabulary(model, levels=(8, 8, 8, 5))     # before training
    weights = merge_factors(state_dict)            # after it: those of a plain model, which computes the same

Two ids that differ in one digit stand for almost the same patch, but a table with a row an id learns each from nothing.
In training, the embedding of a token and its row in the head are therefore a row of its own plus a vector for each of
its digits, so that what is learnt of a code is known of its neighbours. The sum is linear: it is folded into the rows
afterwards, and nothing else has to know of it.
"""

import torch
from torch import nn
from torch.nn.utils import parametrize

from ..core.errors import require
from ..lm.transformer import VideoTransformer

NAMES = ("token_embedding", "head")
# As large at the start as the rows were: what is an id's own begins small, and in the head at nothing.
OWN, EMBEDDING, HEAD = 0.2, 0.25, 0.01


class FactoredTable(nn.Module):
    """A table (V, D), or (V + 1, D) with a last row of its own, plus for each row the sum of its digits' vectors."""

    digits_VX: torch.Tensor

    def __init__(self, levels: tuple[int, ...], width: int) -> None:
        super().__init__()
        places = torch.tensor([1, *levels[:-1]]).cumprod(0)
        firsts = torch.tensor([0, *levels[:-1]]).cumsum(0)
        sizes = torch.tensor(levels)
        ids_V1 = torch.arange(int(sizes.prod()))[:, None]
        self.register_buffer("digits_VX", ids_V1 // places % sizes + firsts, persistent=False)
        self.shared = nn.Parameter(torch.zeros(sum(levels), width))

    def forward(self, own_VD: torch.Tensor) -> torch.Tensor:
        """The table that is used."""
        sums_VD = self.shared[self.digits_VX].sum(1)
        return own_VD + nn.functional.pad(sums_VD, (0, 0, 0, len(own_VD) - len(sums_VD)))


def factor_vocabulary(model: VideoTransformer, levels: tuple[int, ...], *, fresh: bool = True) -> None:
    """Have the model's ids share what they learn.

    Args:
        model: to be trained.
        levels: of the tokenizer's FSQ; their product is the vocabulary.
        fresh: draw the digits' vectors; else they begin at nothing, and the model computes what it did.

    Raises:
        ReelmError: the levels are not those of the vocabulary.
    """
    size = int(torch.tensor(levels).prod())
    require(size == model.config.vocab_size, "levels", f"must have the product {model.config.vocab_size}", levels)
    for name, spread in zip(NAMES, (EMBEDDING, HEAD), strict=True):
        module: nn.Module = getattr(model, name)
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        total = FactoredTable(levels, weight.shape[1]).to(weight.device)
        if fresh:
            with torch.no_grad():
                weight.mul_(OWN if name == "token_embedding" else 0)
            nn.init.normal_(total.shared, std=spread)
        parametrize.register_parametrization(module, "weight", total)


def merge_factors(weights: dict[str, torch.Tensor], levels: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """The weights of a model that shares digits, or their average, as those of a plain one."""
    plain = {name: tensor for name, tensor in weights.items() if ".parametrizations." not in name}
    for name in NAMES:
        own_VD, shared = (weights[f"{name}.parametrizations.weight.{part}"] for part in ("original", "0.shared"))
        total = FactoredTable(levels, own_VD.shape[1]).to(own_VD.device)
        with torch.no_grad():
            total.shared.copy_(shared)
            plain[f"{name}.weight"] = total(own_VD)
    return plain
