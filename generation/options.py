"""The options of the calls that make clips, typed for editors and checkers, and refused by name where there is none.

class MyCall: def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Video: …
check_names("generate", options)                    # "sead: is no option of generate; did you mean 'seed'?"

Every class here is one call's keyword options; what an option means stands in its class. Python's typing calls this
`Unpack[TypedDict]` (PEP 692).
"""

import difflib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, SupportsIndex, TypeAlias, TypedDict, TypeVar, Union

import numpy as np
import torch

from ..core.condition import Condition
from ..core.errors import ReelmError
from ..media.clip import Clip
from ..media.fitting import Fit
from ..sampling.decoder import Decoder
from ..sampling.rules import LogitsProcessor
from .session import SessionState
from .video import Video

if TYPE_CHECKING:
    from PIL.Image import Image

Item = TypeVar("Item", covariant=True)


class Listed(Protocol[Item]):
    """A list or a tuple. `Sequence[str]` would take a single string too; a string can only be asked for strings."""

    def __contains__(self, value: object, /) -> bool: ...
    def __getitem__(self, index: SupportsIndex, /) -> Item: ...
    def __iter__(self) -> Iterator[Item]: ...
    def __len__(self) -> int: ...


# Numbers of Python, numpy and torch; arrays and tensors of no axis.
WholeNumber: TypeAlias = int | np.integer[Any] | np.ndarray | torch.Tensor
Number: TypeAlias = float | np.floating[Any] | np.integer[Any] | np.ndarray | torch.Tensor
# The same, one for all clips or one for each; arrays and tensors of one axis will do.
WholeNumbers: TypeAlias = WholeNumber | Sequence[WholeNumber]
Numbers: TypeAlias = Number | Sequence[Number]
# (second, prompt) from which on it holds, and (second, temperature).
PromptTimes: TypeAlias = Sequence[tuple[float | np.floating[Any] | np.integer[Any], str]]
TemperatureTimes: TypeAlias = Sequence[tuple[Number, Number]]
# A prompt, or one that changes over time: [(0, "a red ball"), (4.0, "a blue ring")].
Prompt: TypeAlias = str | PromptTimes
# A batch of prompts.
Prompts: TypeAlias = Listed[str | PromptTimes]
# Pictures in memory, and all else that can be continued: see `VideoGenerator.continue_clip`.
_Picture: TypeAlias = Union[np.ndarray, torch.Tensor, "Image"]
Pictures: TypeAlias = _Picture | Sequence[np.ndarray] | Sequence[torch.Tensor] | Sequence["Image"]
ImageLike: TypeAlias = str | os.PathLike[str] | Pictures
ClipLike: TypeAlias = Video | SessionState | Clip | str | os.PathLike[str] | Pictures
# The tokens (t, *shape) of given segments, by the name of the segment.
_Nested: TypeAlias = "Sequence[int | _Nested]"
Controls: TypeAlias = Mapping[str, Union[np.ndarray, torch.Tensor, "_Nested"]]
# What a call returns in place of a `Video`: see `Video.to`.
OutputType: TypeAlias = Literal["np", "pt", "pil"]
# (passes so far, the tokens (n,) that each clip of the call has got in the latest one, as written).
StepCallback: TypeAlias = Callable[[int, list[torch.Tensor]], None]
TokensCallback: TypeAlias = Callable[[list[SessionState]], None]


class DrawOptions(TypedDict, total=False):
    """What all calls share that draw tokens.

    Attributes:
        negative_prompt: what guidance leads away from; one, or one for each prompt.
        seed: a whole number from 0 to 2^63 - 1; one for all prompts, or one for each. Without it, a random one.
        generator: in place of `seed`: a torch.Generator (or one for each prompt) from which a seed is drawn.
        guidance_scale: how strongly the prompt is followed; 1 is off (half the work), 0 ignores the prompt.
        temperature: below 1 sharper, above 1 flatter, 0 always takes the best token; or a schedule
            [(0, 1.0), (4.0, 0.7)] by the second.
        top_k: only the k best tokens; None for all.
        top_p: only the best tokens that together have this probability; 1 for all.
        min_p: only tokens with at least this share of the best one's probability; 0 for all.
        height, width: in pixels; a model has one size, so another one is refused.
        decoder: "sequential", a token a pass; "jacobi", the same tokens in fewer passes; "auto", the faster of them;
            "diagonal", other tokens, by diagonals or lattices; or a decoder of one's own (sampling/decoder.py).
        block_size: positions that `jacobi` looks at in a pass, up to two latent frames.
        conditions: what the clips are made under beside their prompts, of kinds that the model reads.
        controls: the tokens (t, *shape) of the model's given segments by name, an entry for each latent frame that is
            drawn; the default tokens follow after their end.
        callback_on_step_end: called after a pass with (passes so far, tokens (n,) of each clip as written).
        logits_processor: (input_ids (B, S) as written, scores (B, V)) -> scores; one or several, before temperature.
    """

    negative_prompt: str | Sequence[str] | None
    seed: WholeNumbers | None
    generator: torch.Generator | Sequence[torch.Generator] | None
    guidance_scale: Number
    temperature: Number | TemperatureTimes
    top_k: WholeNumber | None
    top_p: Number
    min_p: Number
    height: WholeNumber | None
    width: WholeNumber | None
    decoder: Literal["auto", "sequential", "jacobi", "diagonal"] | Decoder
    block_size: WholeNumber | None
    conditions: Sequence[Condition]
    controls: Controls
    callback_on_step_end: StepCallback | None
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None


class GenerateOptions(DrawOptions, total=False):
    """The options of `generate`.

    Attributes:
        seconds: how long (2 by default), one or one for each prompt; filled up to whole latent frames.
        num_frames: how long in frames, in place of `seconds`; filled up likewise.
        batch_size: clips that are drawn at a time; all by default. A clip that ends leaves its place to the next.
        keep_state: whether the clips have a `state`, so that they are continued at once and not read again; by default
            where one clip is made, as it takes some megabytes a clip.
        callback_on_tokens: called with the sessions of the clips when all tokens are there, before they become pixels:
            who saves them loses nothing to what happens afterwards.
    """

    seconds: Numbers | None
    num_frames: WholeNumbers | None
    batch_size: WholeNumber | None
    keep_state: bool | None
    callback_on_tokens: TokensCallback | None


class ContinueOptions(DrawOptions, total=False):
    """The options of `continue_clip`; what is not given is as it was for a clip of this model.

    Attributes:
        seconds: how much is added (2 by default), filled up to whole latent frames.
        num_frames: the same in frames, in place of `seconds`.
        prompt: what is to come; of a schedule second 0 is where the clip ends; by default the clip's own prompt.
        fit: how another shape of picture is fitted: "crop", "pad" or "stretch".
        detail: keep what the tokenizer loses of the clip's end where the picture stays as it was, so that no seam is
            seen; see `keep_detail`. Tokens are the same either way.
        callback_on_tokens: as for `generate`.
    """

    seconds: Number | None
    num_frames: WholeNumber | None
    prompt: Prompt | None
    fit: Fit
    detail: bool
    callback_on_tokens: TokensCallback | None


class StreamOptions(DrawOptions, total=False):
    """The options of `stream`.

    Attributes:
        seconds: how long; without an end unless given.
        num_frames: the same in frames, in place of `seconds`.
    """

    seconds: Number | None
    num_frames: WholeNumber | None


# Every option of each call, by the call's name.
CALLS: dict[str, tuple[str, ...]] = {
    "generate": (*GenerateOptions.__annotations__, "prompt", "num_videos_per_prompt", "output_type"),
    "continue_clip": (*ContinueOptions.__annotations__, "clip", "image", "output_type"),
    "stream": (*StreamOptions.__annotations__, "prompt"),
    "decode": ("session", "output_type"),
    "score": ("clip", "prompt", "fit"),
}


def check_names(call: str, options: Mapping[str, object]) -> None:
    """Refuse options that this call does not have.

    Raises:
        ReelmError: it names the calls that have the option, or the option of this call whose name is nearest, or all of
            them where none is near.
    """
    for name in options:
        if name in CALLS[call]:
            continue
        others = [other for other, names in CALLS.items() if name in names]
        near = difflib.get_close_matches(name, CALLS[call], n=1)
        if others:
            *most, last = others
            hint = f"{', '.join(most)} and {last} have it" if most else f"{last} has it"
        else:
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(CALLS[call])}"
        raise ReelmError(f"{name}: is no option of {call}; {hint}")


def plain(value: object) -> object:
    """Numbers of numpy and torch as Python's own, arrays of one axis as lists; everything else as it is."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | torch.Tensor) and value.ndim <= 1 and value.dtype not in (bool, torch.bool):
        return value.tolist()
    if isinstance(value, list):
        return [plain(item) for item in value]
    if type(value) is tuple:
        return tuple(plain(item) for item in value)
    return value
