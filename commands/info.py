"""The command that describes a model, or plans what its clips take: info."""

from dataclasses import dataclass

from ..core.errors import require
from .base import ModelCommand, strict_json


@dataclass(frozen=True, kw_only=True)
class Info(ModelCommand):
    """Tell a model's sizes and default settings, and the versions it runs on here; or what memory its clips will take.

    Attributes:
        plan: tell the memory that clips will take, and how many fit here; only config.json is read.
        preset: plan this preset (cosmos-4b or emu3-8b) in place of a model.
        seconds: length of a planned clip, 2 by default.
        batch: planned clips at once, 1 by default.
    """

    example = "reelm info --model world --plan --seconds 20 --batch 16"
    plan: bool = False
    preset: str | None = None
    seconds: float | None = None
    batch: int | None = None

    def run(self) -> int:
        from ..bench.model_info import describe_model, plan_clips

        options = {"preset": self.preset, "seconds": self.seconds, "batch": self.batch}
        given = {name: value for name, value in options.items() if value is not None}
        require(self.plan or not given, ", ".join(given), "must be given with --plan only", given)
        self.set_threads()
        if self.plan:
            plan = plan_clips(
                self.model, preset=self.preset, seconds=self.seconds, batch=self.batch, device=self.device, **self.kinds
            )
            print(strict_json(plan.values()) if self.json else plan)
        else:
            found = describe_model(self.model, device=self.device, **self.kinds)
            print(strict_json(found) if self.json else found)
        return 0
