"""The protocols of decoders: what a decoder is, and what it can ask of the engine.

    class Mine:                                        # a decoder of one's own: decoder=Mine()
        name, exactness = "mine", "lossless"
        def step(self, engine: EngineView) -> None: ...

A step calls `engine.logits(L)` and `engine.draw(logits)` once, then `engine.accept(tokens_BL, counts)`, with the number
of the L tokens that each clip keeps: from 1 to the clip's entry of `engine.limits`, or 0 where that entry is 0. The
rest of the L tokens become drafts, from which the next pass starts. A step may make several passes (diagonal.py does).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from ..core.layout import FrameLayout

Exactness = Literal["exact", "lossless", "approximate"]


@dataclass(frozen=True)
class Wave:
    """The positions of a pass that are not consecutive.

    Attributes:
        offsets: The distance of each of the L positions from the clip's next position, ascending.
        sees_LA: Which of the next A positions each of them attends to, its own among them; it attends to all positions
            before these.
    """

    offsets: tuple[int, ...]
    sees_LA: torch.Tensor


class EngineView(Protocol):
    """The part of the engine that a decoder uses: B is the number of clips, R that of rows, B or 2 B with guidance."""

    @property
    def layout(self) -> FrameLayout:
        """The layout of a latent frame."""

    @property
    def limits(self) -> list[int]:
        """The number of tokens that each clip may still accept now."""

    def drafts(self, count: int) -> torch.Tensor:
        """Return drafts (B, L) of the tokens at the next L = `count` positions; V where nothing is known."""

    def logits(self, count: int, wave: Wave | None = None) -> torch.Tensor:
        """Return logits (R, L, V) of the next L = `count` positions, given the drafts before each, or of a wave.

        The rows of the prompts come first; under guidance those of the negative prompts follow.
        """

    def draw(self, logits_RLV: torch.Tensor, wave: Wave | None = None) -> torch.Tensor:
        """Return the tokens (B, L) that follow from these logits and the noise of their positions."""

    def put(self, tokens_BL: torch.Tensor, wave: Wave) -> None:
        """Set the tokens at the positions of the wave that the following passes read."""

    def accept(self, tokens_BL: torch.Tensor, counts: Sequence[int]) -> None:
        """Keep the first `counts` of the L tokens of each clip; the others become drafts."""


class Decoder(Protocol):
    """A method of finding tokens.

    A decoder that looks at more than one position in a pass has an attribute `block_size` with their number, at most
    two latent frames.

    Attributes:
        name: The name of the decoder in reports.
        exactness: "exact" is sampling itself, "lossless" finds the same tokens by other passes, "approximate" finds
            other tokens.
    """

    name: str
    exactness: Exactness

    def step(self, engine: EngineView) -> None:
        """Accept some more tokens for every clip that may accept any."""
