"""The command that describes a model, or plans the memory of its clips: info."""

from dataclasses import dataclass

from ..core.errors import require
from .base import ModelCommand, strict_json


@dataclass(frozen=True, kw_only=True)
class Info(ModelCommand):
    """Print a model's sizes, settings and versions, or the words that it knows, or plan the memory of its clips.

    Attributes:
        words: Print the words that the model knows, and nothing else.
        plan: Print the memory that clips need, and how many clips fit here; only config.json is read.
        preset: The preset to plan for (cosmos-4b, emu3-8b or llama-27m), in place of a model.
        seconds: The length of a planned clip in seconds, 2 by default.
        batch: The number of planned clips at once, 1 by default.
    """

    example = "reelm info --model world --plan --seconds 20 --batch 16"
    words: bool = False
    plan: bool = False
    preset: str | None = None
    seconds: float | None = None
    batch: int | None = None

    def run(self) -> int:
        from ..bench.model_info import describe_model, list_words, plan_clips

        options = {"preset": self.preset, "seconds": self.seconds, "batch": self.batch}
        given = {name: value for name, value in options.items() if value is not None}
        require(self.plan or not given, ", ".join(given), "must be given with --plan only", given)
        require(not (self.plan and self.words), "words", "must not be given with --plan", self.words)
        self.set_threads()
        if self.words:
            words = list_words(self.model, device=self.device, **self.numerics)
            spells = "this model has no list of words: it spells any word from pieces"
            print(strict_json(words) if self.json else "\n".join(words) or spells)
        elif self.plan:
            plan = plan_clips(
                self.model, preset=self.preset, seconds=self.seconds, batch=self.batch, device=self.device,
                **self.numerics,
            )  # fmt: skip
            print(strict_json(plan.values()) if self.json else plan)
        else:
            info = describe_model(self.model, device=self.device, **self.numerics)
            print(strict_json(info) if self.json else info)
        return 0
