"""The part of a token's input that the keys and axes of its latent frame are.

    embedding = ControlEmbedding(controller, width=256)
    x_BLD = embedding(x_BLD, ids_BLK, index_BL)

A set of held keys has the sum of the vectors of its keys, so that a set that was never seen has a meaning too; a step
of an axis has a vector of its own. Every picture of a latent frame has its own vectors.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..core.controls import Controller


class ControlEmbedding(nn.Module):
    """Adds to the inputs of slots the vectors of the K given tokens at the beginning of their latent frame."""

    def __init__(self, controller: Controller, width: int) -> None:
        super().__init__()
        self.controller = controller
        pictures, keys, axes = controller.pictures, len(controller.keys), len(controller.axes)
        self.keys = nn.Embedding(pictures * keys, width) if keys else None
        self.axes = nn.Embedding(pictures * axes * controller.bins, width) if axes else None

    def forward(self, x_BLD: torch.Tensor, ids_BLK: torch.Tensor, index_BL: torch.Tensor) -> torch.Tensor:
        """Return the inputs with the vectors added.

        Args:
            x_BLD: The inputs of slots.
            ids_BLK: The ids in their own segments of the given tokens of each slot's latent frame.
            index_BL: The index of each slot in its latent frame; a slot among the given tokens gets those before it.
        """
        for place, table_XD in enumerate(self._tables()):
            vector_BLD = F.embedding(ids_BLK[..., place].clamp(0, len(table_XD) - 1), table_XD)
            x_BLD = x_BLD + vector_BLD * (index_BL > place)[..., None]
        return x_BLD

    def _tables(self) -> list[torch.Tensor]:
        """Return the table of the vectors of each given token's ids, in writing order."""
        tables: list[torch.Tensor] = []
        pictures = self.controller.pictures
        if self.keys is not None:
            # The sums of all sets, as one product of a constant shape: its bits do not depend on the slots.
            keys_PND = self.keys.weight.unflatten(0, (pictures, -1))
            tables += (held_keys(keys_PND.shape[1]).to(keys_PND) @ keys_PND).unbind()
        if self.axes is not None:
            tables += self.axes.weight.unflatten(0, (-1, self.controller.bins)).unbind()
        return tables


def held_keys(keys: int) -> torch.Tensor:
    """Return which of N keys each of the H = 2**N sets holds (H, N), as 0 and 1 in float32."""
    return (torch.arange(2**keys)[:, None] >> torch.arange(keys) & 1).float()
