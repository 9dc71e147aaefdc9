"""The part of a token's input that the keys and axes of its latent frame are.

    embedding = ControlEmbedding(controller, layout, width=256)
    x_BLD = embedding(x_BLD, history_BQ, positions_BL)

A set of held keys has the sum of the vectors of its keys, so that a set that was never seen has a meaning too; a step
of an axis has a vector of its own. Every picture of a latent frame has its own vectors.
"""

import torch
import torch.nn.functional as F
from torch import nn

from ..core.controls import Controller
from ..core.layout import FrameLayout
from ..core.token_history import tokens_at


class ControlEmbedding(nn.Module):
    """Adds to the inputs of slots the vectors of the K given tokens at the beginning of their latent frame."""

    def __init__(self, controller: Controller, layout: FrameLayout, width: int) -> None:
        super().__init__()
        self.controller, self.frame_size = controller, layout.frame_size
        self.first_ids = [layout.first_id(segment.name) for segment in controller.segments for _ in range(segment.size)]
        pictures, keys, axes = controller.pictures, len(controller.keys), len(controller.axes)
        self.keys = nn.Embedding(pictures * keys, width) if keys else None
        self.axes = nn.Embedding(pictures * axes * controller.bins, width) if axes else None

    def forward(self, x_BLD: torch.Tensor, history_BQ: torch.Tensor, positions_BL: torch.Tensor) -> torch.Tensor:
        """Return the inputs with the vectors added.

        Args:
            x_BLD: The inputs of slots.
            history_BQ: The newest tokens; that of position p is in column p % Q.
            positions_BL: The positions of the slots. One among the given tokens gets the vectors of those before it.
        """
        index_BL = positions_BL % self.frame_size
        starts_BL = positions_BL - index_BL
        for place, (table_XD, first_id) in enumerate(zip(self._tables(), self.first_ids, strict=True)):
            ids_BL = (tokens_at(history_BQ, starts_BL + place) - first_id).clamp(0, len(table_XD) - 1)
            x_BLD = x_BLD + F.embedding(ids_BL, table_XD) * (index_BL > place)[..., None]
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
