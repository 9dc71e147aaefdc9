"""Statistics of an engine: the number of passes and tokens, and the time of each part of the work."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypedDict

from .decoder import Decoder


class RunReport(TypedDict):
    """The statistics of a run: its decoder, its counts, and the seconds of its parts.

    `read_seconds`, `sample_seconds` and `decode_seconds` are those of reading a given clip, of drawing all tokens, and
    of decoding pixels; `model_seconds` and `draw_seconds` are parts of the drawing. `accepted` has the number of steps
    in which a clip accepted so many tokens, by the number of tokens.
    """

    decoder: str
    exactness: str
    tokens: int
    passes: int
    tokens_per_pass: float
    accepted: dict[int, int]
    read_seconds: float
    sample_seconds: float
    decode_seconds: float
    model_seconds: float
    draw_seconds: float
    tokens_per_second: float


@dataclass
class EngineStats:
    """The counts of an engine so far.

    Attributes:
        passes: The passes of the model, each over all rows that there were.
        tokens: The tokens that were drawn, of all clips.
        steps: The passes, counted once for each clip that accepted tokens from them.
        accepted: The number of steps in which a clip accepted so many tokens, by the number of tokens.
        model_seconds: The time in the model.
        draw_seconds: The time of drawing tokens from logits.
    """

    passes: int = 0
    tokens: int = 0
    steps: int = 0
    accepted: Counter[int] = field(default_factory=Counter)
    model_seconds: float = 0.0
    draw_seconds: float = 0.0
    _counted: int = 0

    def count(self, accepted: Sequence[int]) -> None:
        """Count a step that ends, with the number of tokens that each clip accepted in it."""
        self.tokens += sum(accepted)
        self.accepted.update(number for number in accepted if number)
        self.steps += (self.passes - self._counted) * sum(number > 0 for number in accepted)
        self._counted = self.passes

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the seconds inside the `with` block to the attribute `part`."""
        began = time.perf_counter()
        yield
        setattr(self, part, getattr(self, part) + time.perf_counter() - began)

    def report(self, decoder: Decoder, read_seconds: float, sample_seconds: float, decode_seconds: float) -> RunReport:
        """Return the statistics of a run of this decoder whose parts took so many seconds."""
        return {
            "decoder": decoder.name,
            "exactness": decoder.exactness,
            "tokens": self.tokens,
            "passes": self.passes,
            "tokens_per_pass": self.tokens / max(1, self.steps),
            "accepted": dict(sorted(self.accepted.items())),
            "read_seconds": read_seconds,
            "sample_seconds": sample_seconds,
            "decode_seconds": decode_seconds,
            "model_seconds": self.model_seconds,
            "draw_seconds": self.draw_seconds,
            "tokens_per_second": self.tokens / max(sample_seconds, 1e-9),
        }
