"""The plan of one clip, which says all that its tokens depend on, and its row, which says how far it is.

settings = SamplingConfig(guidance_scale=3.0, top_k=50)
plan = ClipPlan(prompts=((0, "a red ball rolls"), (8, "a blue ring spins")), key=NoiseKey(7), latent_frames=16)
row = ClipRow(clip=0, plan=plan)
row.limit(frame_size=64, horizon=None)                    # the number of tokens that it may still accept now
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypedDict, get_args

import torch

from ..core.condition import Condition, GuidanceMethod, Text
from ..core.errors import require
from ..core.layout import FrameLayout
from ..core.plain_values import convert_fields
from ..core.progress import note
from ..core.protocols import LanguageModel
from ..kernels.sample import check_settings

# (first latent frame for which it holds, value), in ascending order; the first entry begins at 0.
PromptSchedule = tuple[tuple[int, str], ...]
TemperatureSchedule = tuple[tuple[int, float], ...]
# Takes (input_ids (B, S), scores (B, V)) and returns new scores, as in transformers.
LogitsProcessor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class SamplingRules(TypedDict):
    """The options of `kernels.sample.sample` that do not depend on the clip; see `SamplingConfig`."""

    guidance_scale: float
    temperature: float
    top_k: int | None
    top_p: float
    min_p: float


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """The settings by which the next token is drawn.

    Attributes:
        guidance_scale: The strength of guidance by the prompt; 1 is off, 0 ignores the prompt.
        guidance: The method of guidance. "two-row" is its definition, with twice the work: a row with the prompt and a
            row with the negative prompt. "auto" lets the model apply the scale itself, in one row, where it has learnt
            that scale and no clip has a negative prompt; elsewhere it is "two-row".
        temperature: The divisor of the logits: below 1 sharper, above 1 flatter; 0 always takes the best token, and the
            least value above it is 1e-6.
        top_k: The number of best tokens to choose from; None for all.
        top_p: The probability that the best tokens to choose from have together; 1 for all.
        min_p: The least probability of a token to choose from, as a share of the best one's; 0 for all.
    """

    guidance_scale: float = 3.0
    guidance: GuidanceMethod = "auto"
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        convert_fields(self)
        check_settings(self.guidance_scale, self.temperature, self.top_k, self.top_p, self.min_p)
        known = get_args(GuidanceMethod)
        require(self.guidance in known, "guidance", f"must be one of {', '.join(known)}", self.guidance)

    @property
    def rules(self) -> SamplingRules:
        """The options of `kernels.sample.sample` that say how a token is drawn from the logits."""
        return {
            "guidance_scale": self.guidance_scale, "temperature": self.temperature, "top_k": self.top_k,
            "top_p": self.top_p, "min_p": self.min_p,
        }  # fmt: skip

    def in_one_row(self, learned: float | None, *, negatives: bool = False) -> bool:
        """Return whether a model applies the guidance itself.

        Args:
            learned: The scale that the model has learnt (`LanguageModel.guidance`), or None.
            negatives: Whether a clip has a negative prompt.
        """
        return self.guidance == "auto" and self.guidance_scale == learned and not negatives

    def rows(self, learned: float | None, *, negatives: bool = False) -> int:
        """Return the rows of the cache that each clip takes, 1 or 2; the arguments are those of `in_one_row`."""
        return 1 if self.guidance_scale == 1 or self.in_one_row(learned, negatives=negatives) else 2

    def chosen(self, model: LanguageModel, *, negatives: bool = False) -> "tuple[LanguageModel, SamplingConfig]":
        """Return the model that draws under these settings, and the settings for its logits.

        Args:
            model: The model; where it applies the guidance itself, its `guided` one draws, without guidance.
            negatives: As for `in_one_row`.
        """
        if model.guided is None or not self.in_one_row(model.guidance, negatives=negatives):
            return model, self
        return model.guided, dataclasses.replace(self, guidance_scale=1.0)


@dataclass(frozen=True)
class NoiseKey:
    """The name of the noise of one clip.

    Attributes:
        seed: The user's seed.
        sample: The index of the clip among the samples of one prompt.
    """

    seed: int
    sample: int = 0


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """The plan of one clip.

    Attributes:
        prompts: The prompt from each latent frame on; latent frames drawn before a change stay in the window unchanged.
        negative_prompt: The prompt that guidance leads away from.
        conditions: The conditions of the whole clip in addition to its prompt.
        controls: The tokens (t, *shape) of given segments by name, from latent frame 0 on; after their end, and for
            segments that are not named, the default token of the segment is given.
        key: The key of the clip's noise.
        latent_frames: The number of latent frames of the whole clip; None for no end.
        temperatures: The temperature from each latent frame on, in place of that of the sampling settings; empty for
            none.
    """

    prompts: PromptSchedule
    negative_prompt: str = ""
    conditions: tuple[Condition, ...] = ()
    controls: Mapping[str, torch.Tensor] = field(default_factory=dict)
    key: NoiseKey
    latent_frames: int | None = None
    temperatures: TemperatureSchedule = ()

    def prompt_at(self, latent_frame: int) -> str:
        """Return the prompt under which this latent frame is drawn."""
        return [text for start, text in self.prompts if start <= latent_frame][-1]

    @property
    def last_prompt(self) -> str:
        """The prompt with which the clip ends."""
        return self.prompts[-1][1]

    def conditions_at(self, latent_frame: int) -> tuple[Condition, ...]:
        """Return all conditions under which this latent frame is drawn."""
        return (Text(self.prompt_at(latent_frame)), *self.conditions)

    @property
    def negative_conditions(self) -> tuple[Condition, ...]:
        """The conditions of the row that guidance leads away from."""
        return (Text(self.negative_prompt), *self.conditions)

    def conditions_of_rows(self, latent_frame: int, count: int) -> list[tuple[Condition, ...]]:
        """Return the conditions under which this latent frame is drawn: of the prompt's row, and of a second row."""
        return [self.conditions_at(latent_frame), self.negative_conditions][:count]

    def next_change(self, latent_frame: int) -> int | None:
        """Return the first latent frame after this one at which the prompt changes."""
        return next((start for start, _ in self.prompts if start > latent_frame), None)

    def holds(self, latent_frame: int) -> bool:
        """Return whether a latent frame is one of the clip's."""
        return self.latent_frames is None or latent_frame < self.latent_frames

    def changes_at(self, latent_frame: int) -> bool:
        """Return whether the prompt changes with this latent frame."""
        return any(start == latent_frame for start, _ in self.prompts)

    def shares_past(
        self, prompts: PromptSchedule, negative_prompt: str, conditions: tuple[Condition, ...], latent_frames: int
    ) -> bool:
        """Return whether a clip under these conditions was the same one for its first `latent_frames`."""
        mine, others = ([e for e in schedule if e[0] < latent_frames] for schedule in (self.prompts, prompts))
        return mine == others and self.negative_prompt == negative_prompt and self.conditions == conditions

    def temperature_at(self, latent_frame: int, default: float) -> float:
        """Return the temperature with which this latent frame is drawn."""
        return ([default] + [value for start, value in self.temperatures if start <= latent_frame])[-1]

    def with_controls(self, layout: FrameLayout, start: int, controls: Mapping[str, torch.Tensor]) -> "ClipPlan":
        """Return the plan with these given tokens (t, *shape) for the t latent frames from `start` on.

        Raises:
            ReelmError: A segment is unknown, or not a given one.
        """
        merged = dict(self.controls)
        for name, tokens in controls.items():
            segment = layout[name]
            require(segment.given, "controls", "must be of given segments", name)
            old = merged.get(name, torch.empty((0, *segment.shape), dtype=torch.int64))
            missing = torch.full((max(0, start - len(old)), *segment.shape), segment.default)
            merged[name] = torch.cat([old[:start], missing, tokens.long(), old[start + len(tokens) :]])
        return dataclasses.replace(self, controls=merged)

    def check_past(self, layout: FrameLayout, tokens_tS: torch.Tensor | None) -> None:
        """Refuse latent frames that this clip cannot have behind it: of another layout, or beyond its end."""
        if tokens_tS is None:
            return
        fits, size = tokens_tS.ndim == 2 and tokens_tS.shape[1] == layout.frame_size, layout.frame_size
        require(fits, "tokens_tS", f"must have shape (t, {size})", tuple(tokens_tS.shape))
        ends = self.latent_frames
        within = ends is None or len(tokens_tS) <= ends
        require(within, "tokens_tS", f"must be at most {ends} latent frames", len(tokens_tS))

    def given_tokens(self, layout: FrameLayout, latent_frame: int) -> torch.Tensor:
        """Return the tokens (S,) of a latent frame in writing order; only those of given segments mean anything."""
        grids = {}
        for segment in layout.segments:
            controls = self.controls.get(segment.name)
            if segment.given and controls is not None and latent_frame < len(controls):
                grids[segment.name] = controls[latent_frame].long()
            else:
                grids[segment.name] = torch.full(segment.shape, segment.default)
        return layout.pack(grids)


@dataclass
class ClipRow:
    """The state of a clip in the engine.

    Attributes:
        clip: The number of the clip.
        plan: The plan of the clip.
        position: The position of its next token, as the host knows it.
        conditioned: Whether its rows of the cache hold its conditions, which come before everything else.
        emitted: The number of latent frames that were handed out.
        anchor: The latent frame at which its cache begins.
        history: All its tokens so far, where there are logits processors that look at them; else empty.
        newest: Its newest latent frames, where the model has a horizon.
        first: Its first latent frame, once it is complete.
    """

    clip: int
    plan: ClipPlan
    position: int = 0
    conditioned: bool = False
    emitted: int = 0
    anchor: int = 0
    history: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    newest: list[torch.Tensor] = field(default_factory=list)
    first: torch.Tensor | None = None

    def kept(self, tokens_tS: torch.Tensor, model: LanguageModel) -> torch.Tensor:
        """Return the latent frames from the anchor on, the first of which may have to be that of the clip."""
        if self.anchor == 0:
            return tokens_tS
        kept = f"this one goes on from the newest {len(tokens_tS)}"
        note(f"the model's clips end after {model.horizon} latent frames; {kept}")
        if self.first is None or not model.keeps_first:
            return tokens_tS
        return torch.cat([self.first[None], tokens_tS[1:]])

    def limit(self, frame_size: int, horizon: int | None) -> int:
        """Return the number of tokens that the clip may still accept now.

        The limit is the first of: the end of the clip, a change of its prompt, the model's horizon, and the second
        latent frame from here, as the cache keeps the newest tokens of no more latent frames.
        """
        full = None if horizon is None else self.anchor + horizon
        ends = (self.plan.latent_frames, self.plan.next_change(self.position // frame_size), full, self.emitted + 2)
        return min(end for end in ends if end is not None) * frame_size - self.position


def first_anchor(latent_frames: int, horizon: int | None) -> int:
    """Return the latent frame at which a clip's cache begins when the next one after `latent_frames` is drawn.

    Whenever its horizon is reached, the cache begins anew with the newest half of it. The result depends on the length
    of the clip alone, not on whether the clip was saved and continued in between.
    """
    if horizon is None or latent_frames < horizon:
        return 0
    stride = horizon - horizon // 2
    return ((latent_frames - horizon) // stride + 1) * stride
