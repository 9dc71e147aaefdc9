"""What a decoder is, and what it may ask of a rollout.

    class Mine:                                        # a decoder of one's own: decoder=Mine()
        name, exactness = "mine", "lossless"
        def step(self, rollout: Passes) -> None: ...

A step calls `rollout.logits(L)` and `rollout.draw(logits)` once, then `rollout.accept(tokens_BL, counts)`: how many of
the L tokens stay, for each clip from 1 to `rollout.room`, or 0 where a clip has no room. The rest of the L tokens are
the drafts that the next pass starts from. A step may make more passes than one (diagonal.py does).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from ..lm.order import Order

Exactness = Literal["exact", "lossless", "approximate"]


@dataclass(frozen=True)
class Wave:
    """Positions of a pass that are no run.

    Attributes:
        offsets: how far each of the L positions lies ahead of the clip's own, ascending.
        sees_LA: which of the next A positions each attends to, its own among them; what lies before, each sees anyway.
    """

    offsets: tuple[int, ...]
    sees_LA: torch.Tensor


class Passes(Protocol):
    """What a decoder needs of a rollout."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of a latent frame in tokens."""

    @property
    def order(self) -> Order:
        """In which positions of a latent frame follow each other."""

    @property
    def room(self) -> list[int]:
        """How many more tokens each clip may take now."""

    def drafts(self, count: int) -> torch.Tensor:
        """The tokens (B, L) that the next L = `count` positions are guessed to have; V where nothing is known."""

    def logits(self, count: int, wave: Wave | None = None) -> torch.Tensor:
        """Logits (R, L, V) of the next L = `count` positions, given the drafts before each, or of a wave among them.

        The prompts' rows come first; under guidance those of the negative prompts follow.
        """

    def draw(self, logits_RLV: torch.Tensor, wave: Wave | None = None) -> torch.Tensor:
        """The tokens (B, L) that these logits and the noise of their positions make."""

    def put(self, tokens_BL: torch.Tensor, wave: Wave) -> None:
        """Have these tokens seen at the positions of the wave by the passes that follow."""

    def accept(self, tokens_BL: torch.Tensor, counts: Sequence[int]) -> None:
        """Keep the first `counts` of the L tokens of each clip; the others become drafts."""


class Decoder(Protocol):
    """How tokens are found. `exactness`: "exact" is sampling itself, "lossless" gives its tokens another way,
    "approximate" gives others.

    One that looks at more than a latent frame in a pass, at two at most, says so by an attribute `block_size`.
    """

    name: str
    exactness: Exactness

    def step(self, rollout: Passes) -> None:
        """One pass of the model."""


def frames_ahead(block_size: int, frame_size: int) -> int:
    """Latent frames that a cache needs beside the window for passes over so many positions."""
    return -(-block_size // frame_size)
