"""What an engine has done: passes, tokens, and where the time went."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .decoder import Decoder


@dataclass
class EngineStats:
    """Counts of an engine so far.

    Attributes:
        passes: of the model over the rows that there were.
        tokens: drawn, of all clips.
        steps: passes, counted once for each clip that took tokens from one.
        accepted: how often a clip took so many tokens of a step.
        model_seconds, draw_seconds: time in the model, and in drawing tokens from its logits.
    """

    passes: int = 0
    tokens: int = 0
    steps: int = 0
    accepted: Counter[int] = field(default_factory=Counter)
    model_seconds: float = 0.0
    draw_seconds: float = 0.0
    _counted: int = 0

    def count(self, taken: Sequence[int]) -> None:
        """The end of a step, in which each clip took so many tokens."""
        self.tokens += sum(taken)
        self.accepted.update(number for number in taken if number)
        self.steps += (self.passes - self._counted) * sum(number > 0 for number in taken)
        self._counted = self.passes

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the seconds inside to `part`."""
        began = time.perf_counter()
        yield
        setattr(self, part, getattr(self, part) + time.perf_counter() - began)

    def report(self, decoder: Decoder, seconds: dict[str, float]) -> dict[str, Any]:
        """As plain values, with the seconds of the parts of a run, of which "sample" is the drawing of all tokens."""
        return {
            "decoder": decoder.name,
            "exactness": decoder.exactness,
            "tokens": self.tokens,
            "passes": self.passes,
            "tokens_per_pass": self.tokens / max(1, self.steps),
            "accepted": dict(sorted(self.accepted.items())),
            **{f"{part}_seconds": value for part, value in seconds.items()},
            "model_seconds": self.model_seconds,
            "draw_seconds": self.draw_seconds,
            "tokens_per_second": self.tokens / max(seconds["sample"], 1e-9),
        }
