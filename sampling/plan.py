"""What one clip is to become: its prompts over time, its other conditions, its given tokens, its noise, its length.

plan = ClipPlan(prompts=((0, "a red ball rolls"), (8, "a blue ring spins")), key=NoiseKey(7), latent_frames=16)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..core.condition import Condition, Text
from ..core.layout import FrameLayout
from .noise_keys import NoiseKey

# (latent frame from which on it holds, value), in ascending order, the first from 0 on.
PromptSchedule = tuple[tuple[int, str], ...]
TemperatureSchedule = tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """One clip.

    Attributes:
        prompts: the prompt from each latent frame on; what was drawn before stays in the window as it is.
        negative_prompt: what guidance leads away from.
        conditions: what the clip is made under beside its prompt, from beginning to end.
        controls: the tokens (t, *shape) of given segments by name, from latent frame 0 on; after their end, and for
            segments that are not named, the default token of the segment is given.
        key: the noise.
        latent_frames: where the clip ends, counted from its beginning; None for no end.
        temperatures: instead of the temperature of the sampling settings, from each latent frame on; empty for none.
    """

    prompts: PromptSchedule
    negative_prompt: str = ""
    conditions: tuple[Condition, ...] = ()
    controls: Mapping[str, torch.Tensor] = field(default_factory=dict)
    key: NoiseKey
    latent_frames: int | None = None
    temperatures: TemperatureSchedule = ()

    def prompt_at(self, latent_frame: int) -> str:
        """The prompt under which this latent frame is drawn."""
        return [text for start, text in self.prompts if start <= latent_frame][-1]

    def conditions_at(self, latent_frame: int) -> tuple[Condition, ...]:
        """All conditions under which this latent frame is drawn."""
        return (Text(self.prompt_at(latent_frame)), *self.conditions)

    @property
    def negative_conditions(self) -> tuple[Condition, ...]:
        """The conditions of the row that guidance leads away from."""
        return (Text(self.negative_prompt), *self.conditions)

    def next_change(self, latent_frame: int) -> int | None:
        """The first latent frame after this one at which the prompt changes."""
        return next((start for start, _ in self.prompts if start > latent_frame), None)

    def changes_at(self, latent_frame: int) -> bool:
        """Whether the prompt changes with this latent frame."""
        return any(start == latent_frame for start, _ in self.prompts)

    def shares_past(
        self, prompts: PromptSchedule, negative_prompt: str, conditions: tuple[Condition, ...], latent_frames: int
    ) -> bool:
        """Whether a clip under these conditions was the same one for its first `latent_frames`."""
        mine, others = ([e for e in schedule if e[0] < latent_frames] for schedule in (self.prompts, prompts))
        return mine == others and self.negative_prompt == negative_prompt and self.conditions == conditions

    def temperature_at(self, latent_frame: int, default: float) -> float:
        """The temperature with which this latent frame is drawn."""
        return ([default] + [value for start, value in self.temperatures if start <= latent_frame])[-1]

    def given_tokens(self, layout: FrameLayout, latent_frame: int) -> torch.Tensor:
        """The tokens (S,) of this latent frame as they are written, where they are given; other places have any."""
        grids = {}
        for segment in layout.segments:
            controls = self.controls.get(segment.name)
            if segment.given and controls is not None and latent_frame < len(controls):
                grids[segment.name] = controls[latent_frame].long()
            else:
                grids[segment.name] = torch.full(segment.shape, segment.default)
        return layout.pack(grids)
