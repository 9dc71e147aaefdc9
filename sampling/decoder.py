"""What a decoder is, and what it may ask of the engine.

    class Mine:                                        # a decoder of one's own: decoder=Mine()
        name, exactness = "mine", "lossless"
        def step(self, engine: EngineView) -> None: ...

A step calls `engine.logits(L)` and `engine.draw(logits)` once, then `engine.accept(tokens_BL, counts)`: how many of the
L tokens stay, for each clip from 1 to its entry of `engine.limits`, or 0 where that is 0. The rest of the L tokens are
the drafts that the next pass starts from. A step may make several passes (diagonal.py does).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from ..core.layout import FrameLayout

Exactness = Literal["exact", "lossless", "approximate"]


@dataclass(frozen=True)
class Wave:
    """The positions of a pass that do not follow one another.

    Attributes:
        offsets: how far each of the L positions lies ahead of the clip's next one, ascending.
        sees_LA: which of the next A positions each attends to, its own among them; it attends to all before them.
    """

    offsets: tuple[int, ...]
    sees_LA: torch.Tensor


class EngineView(Protocol):
    """What a decoder needs of the engine. B is the number of clips, R the number of rows: B, or 2 B under guidance."""

    @property
    def layout(self) -> FrameLayout:
        """The layout of a latent frame."""

    @property
    def limits(self) -> list[int]:
        """How many more tokens each clip may accept now."""

    def drafts(self, count: int) -> torch.Tensor:
        """The tokens (B, L) that the next L = `count` positions are guessed to have; V where nothing is known."""

    def logits(self, count: int, wave: Wave | None = None) -> torch.Tensor:
        """Logits (R, L, V) of the next L = `count` positions, given the drafts before each, or of a wave among them.

        The rows of the prompts come first; under guidance those of the negative prompts follow.
        """

    def draw(self, logits_RLV: torch.Tensor, wave: Wave | None = None) -> torch.Tensor:
        """The tokens (B, L) that these logits and the noise of their positions make."""

    def put(self, tokens_BL: torch.Tensor, wave: Wave) -> None:
        """Have the passes that follow see these tokens at the positions of the wave."""

    def accept(self, tokens_BL: torch.Tensor, counts: Sequence[int]) -> None:
        """Keep the first `counts` of the L tokens of each clip; the others become drafts."""


class Decoder(Protocol):
    """How tokens are found.

    `exactness` says what they are: "exact" is sampling itself, "lossless" finds its tokens in another way,
    "approximate" finds others. A decoder that looks at more than a latent frame in a pass, at two at most, says so by
    an attribute `block_size`.
    """

    name: str
    exactness: Exactness

    def step(self, engine: EngineView) -> None:
        """Accept some tokens more for every clip that may accept any."""
