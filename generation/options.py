"""The options of the calls that make clips, typed for editors and type checkers.

class MyCall: def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Video: …

Each `...Options` class holds the keyword options of one call, for `Unpack[TypedDict]` (PEP 692), and describes them.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, Required, SupportsIndex, TypeAlias, TypedDict, TypeVar, Union

import numpy as np
import torch

from ..core.condition import Condition, GuidanceMethod
from ..core.controls import ControlTrack
from ..media.clip import Clip
from ..media.fitting import Fit
from ..sampling.decoder import Decoder
from ..sampling.plan import LogitsProcessor
from .session import SessionState
from .video import Video

if TYPE_CHECKING:
    from PIL.Image import Image

Item = TypeVar("Item", covariant=True)


class _ListOf(Protocol[Item]):
    """A list or a tuple, but not a string, which `Sequence[str]` would be: `in` of a string takes strings only."""

    def __contains__(self, value: object, /) -> bool: ...
    def __getitem__(self, index: SupportsIndex, /) -> Item: ...
    def __iter__(self) -> Iterator[Item]: ...
    def __len__(self) -> int: ...


# Numbers of Python, numpy and torch, among them arrays and tensors without an axis.
WholeNumber: TypeAlias = int | np.integer[Any] | np.ndarray | torch.Tensor
Number: TypeAlias = float | np.floating[Any] | np.integer[Any] | np.ndarray | torch.Tensor
# One number for all clips, or one for each of them, as a list or an array or tensor with one axis.
WholeNumbers: TypeAlias = WholeNumber | Sequence[WholeNumber]
Numbers: TypeAlias = Number | Sequence[Number]
# Schedules: (second from which on it holds, prompt), and (second from which on it holds, temperature).
PromptTimes: TypeAlias = Sequence[tuple[float | np.floating[Any] | np.integer[Any], str]]
TemperatureTimes: TypeAlias = Sequence[tuple[Number, Number]]
# A prompt, or one that changes over time: [(0, "a red ball"), (4.0, "a blue ring")].
Prompt: TypeAlias = str | PromptTimes
# A batch of prompts.
Prompts: TypeAlias = _ListOf[str | PromptTimes]
# Frames in memory, and everything else that can be continued: see `VideoGenerator.continue_clip`.
_Frames: TypeAlias = Union[np.ndarray, torch.Tensor, "Image"]
FramesLike: TypeAlias = _Frames | Sequence[np.ndarray] | Sequence[torch.Tensor] | Sequence["Image"]
ImageLike: TypeAlias = str | os.PathLike[str] | FramesLike
ClipLike: TypeAlias = Video | SessionState | Clip | str | os.PathLike[str] | FramesLike
# The tokens (t, *shape) of given segments, by the name of the segment.
_Nested: TypeAlias = "Sequence[int | _Nested]"
Controls: TypeAlias = Mapping[str, Union[np.ndarray, torch.Tensor, "_Nested"]]
# The keys that are held during each picture, and the turns of axes by name (core/controls.py).
Keys: TypeAlias = str | ControlTrack | Sequence[str | Collection[str]] | np.ndarray | torch.Tensor
Axes: TypeAlias = Mapping[str, Numbers]
# The form of the frames that a call returns in place of a `Video`: see `Video.to`.
OutputType: TypeAlias = Literal["np", "pt", "pil"]
# Takes (passes so far, the tokens (n,) in writing order that each clip of the call accepted in the latest step); True
# stops the call, anything else is ignored.
StepCallback: TypeAlias = Callable[[int, list[torch.Tensor]], object]
TokensCallback: TypeAlias = Callable[[list[SessionState]], None]


class DrawOptions(TypedDict, total=False):
    """The options of all calls that draw tokens.

    Attributes:
        negative_prompt: The prompt that guidance leads away from; one, or one for each prompt.
        seed: The seed of the noise, a whole number from 0 to 2^63 - 1; one for all prompts, or one for each. By default
            a random one.
        generator: A torch.Generator (or one for each prompt) from which a seed is drawn, in place of `seed`.
        guidance_scale: The strength of guidance by the prompt; 1 is off, 0 ignores the prompt.
        guidance: The method of guidance: "two-row" by its definition, which doubles the work; "auto" in one row, where
            the model has learnt this scale and the clip has no negative prompt.
        temperature: The divisor of the logits: below 1 sharper, above 1 flatter, 0 always takes the best token; or a
            schedule [(0, 1.0), (4.0, 0.7)] by the second.
        top_k: The number of best tokens to choose from; None for all.
        top_p: The probability that the best tokens to choose from have together; 1 for all.
        min_p: The least probability of a token to choose from, as a share of the best one's; 0 for all.
        height, width: The size in pixels; a model has one size, and any other is refused.
        decoder: The method of finding tokens: "sequential", one token a pass; "jacobi", the same tokens in fewer
            passes; "auto", the faster of the two; "diagonal", other tokens, by diagonals or lattices; or a decoder of
            one's own (sampling/decoder.py).
        block_size: The positions that `jacobi` looks at in a pass, up to two latent frames.
        conditions: The conditions of the clips in addition to their prompts, of kinds that the model reads.
        keys: The keys that are held while each picture is shown, of a model that is played: in the written form
            ("w-24,wj-12,none-8"), as a set of names for each picture, or as an array (n, keys) of 0 and 1 in the
            model's order. What is held during picture n shows in picture n + 1. Unless a length is given, the clip ends
            with the picture in which the last keys show.
        axes: The turns of each axis during each picture, by name.
        controls: The tokens (t, *shape) of the model's given segments by name, an entry for each latent frame that is
            drawn, in place of `keys` and `axes`; the default tokens follow after their end.
        callback_on_step_end: A function that is called after each step with (passes so far, tokens (n,) of each clip in
            writing order). Where it returns True, or raises StopIteration, the call stops: it returns the clips as far
            as their latent frames are complete, each with one at least, and they can be continued to the same clips.
        logits_processor: One or several functions (input_ids (B, S) in writing order, scores (B, V)) -> scores, which
            are called before the temperature is applied. They must return the scores, also where they change them in
            place, with -inf for tokens that are not allowed; NaN, or a row of -inf, is refused at the first pass.
    """

    negative_prompt: str | Sequence[str] | None
    seed: WholeNumbers | None
    generator: torch.Generator | Sequence[torch.Generator] | None
    guidance_scale: Number
    guidance: GuidanceMethod
    temperature: Number | TemperatureTimes
    top_k: WholeNumber | None
    top_p: Number
    min_p: Number
    height: WholeNumber | None
    width: WholeNumber | None
    decoder: Literal["auto", "sequential", "jacobi", "diagonal"] | Decoder
    block_size: WholeNumber | None
    conditions: Sequence[Condition]
    keys: Keys | None
    axes: Axes | None
    controls: Controls
    callback_on_step_end: StepCallback | None
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None


class GenerateOptions(DrawOptions, total=False):
    """The options of `generate`.

    Attributes:
        seconds: The length of the clips (2 by default), one or one for each prompt; rounded up to whole latent frames.
        num_frames: The length in frames, in place of `seconds`; rounded up likewise.
        batch_size: The number of clips drawn at a time; all by default. A clip that ends gives its row to the next.
        keep_state: Whether the `state` of each clip holds its part of the cache, with which it is continued without its
            tokens being read again; by default for a single clip only, as this takes some megabytes.
        callback_on_tokens: A function that is called with the sessions of the clips when all tokens are drawn, before
            they are decoded to pixels; a session that it saves is safe from any later failure. Where an exception ends
            the drawing, KeyboardInterrupt among them, it is called before that goes on, with what was drawn: sessions
            of the complete latent frames, which are continued to the same clips, and of none where there are none.
    """

    seconds: Numbers | None
    num_frames: WholeNumbers | None
    batch_size: WholeNumber | None
    keep_state: bool | None
    callback_on_tokens: TokensCallback | None


class OneVideo(GenerateOptions, total=False):
    """The options of `generate` for one prompt and one sample."""

    num_videos_per_prompt: None


class ManyVideos(GenerateOptions, total=False):
    """The options of `generate` for a list of prompts."""

    num_videos_per_prompt: WholeNumber | None


class Samples(GenerateOptions, total=False):
    """The options of `generate` for a list of samples of one prompt."""

    num_videos_per_prompt: Required[WholeNumber]


class ContinueOptions(DrawOptions, total=False):
    """The options of `continue_clip`; for a clip of this model their defaults are the clip's own values.

    Attributes:
        image: A picture to continue, in place of `clip`.
        seconds: The length of what is added, rounded up to whole latent frames; by default what is missing of a clip
            that was stopped or interrupted, else 2.
        num_frames: The length in frames, in place of `seconds`.
        prompt: The prompt of what is added; second 0 of a schedule is the end of the clip; by default the clip's own.
        fit: How a picture of another shape is fitted: "crop", "pad" or "stretch".
        detail: Whether the detail that the tokenizer loses of the clip's end is kept where the picture does not change,
            so that no seam is visible; see `keep_detail`. The tokens are the same with and without it.
        callback_on_tokens: A function that is called with the session when all tokens are drawn, as in `generate`.
    """

    image: ImageLike | None
    seconds: Number | None
    num_frames: WholeNumber | None
    prompt: Prompt | None
    fit: Fit
    detail: bool
    callback_on_tokens: TokensCallback | None


class Takes(ContinueOptions, total=False):
    """The options of `continue_clip` for a list of continuations of one clip."""

    num_videos_per_prompt: Required[WholeNumber]


class StreamOptions(DrawOptions, total=False):
    """The options of `stream`.

    Attributes:
        seconds: The length of the clip; without it the clip has no end.
        num_frames: The length in frames, in place of `seconds`.
    """

    seconds: Number | None
    num_frames: WholeNumber | None
