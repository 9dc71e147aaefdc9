"""The options of the calls that make clips, typed for editors and checkers, and refused by name where there is none.

class MyCall: def generate(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Video: …
check_names("generate", options)                    # "sead: is no option of generate; did you mean 'seed'?"

Every class here is one call's keyword options; what an option means stands in its class. Python's typing calls this
`Unpack[TypedDict]` (PEP 692).
"""

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Union

import numpy as np
import torch

from ..core.condition import Condition
from ..core.errors import ReelmError
from ..media.clip import Clip
from ..media.fitting import Fit
from ..sampling.passes import Decoder
from ..sampling.rules import LogitsProcessor
from .session import SessionState
from .video import Video

if TYPE_CHECKING:
    from PIL.Image import Image

# A prompt, or one that changes over time: [(0, "a red ball"), (4.0, "a blue ring")]; None leaves it to the model.
Prompt: TypeAlias = str | Sequence[tuple[float, str]] | None
# A batch of prompts.
Prompts: TypeAlias = list[str] | tuple[str, ...] | list[list[tuple[float, str]]] | list[str | list[tuple[float, str]]]
# Pictures in memory, and all else that can be continued: see `VideoGenerator.continue_clip`.
_Picture: TypeAlias = Union[np.ndarray, torch.Tensor, "Image"]
Pictures: TypeAlias = _Picture | Sequence[np.ndarray] | Sequence[torch.Tensor] | Sequence["Image"]
ClipLike: TypeAlias = Video | SessionState | Clip | str | os.PathLike[str] | Pictures
# One whole number or one for each prompt; those of numpy and torch will do.
Seeds: TypeAlias = int | np.integer[Any] | Sequence[int] | np.ndarray | torch.Tensor
Number: TypeAlias = float | np.floating[Any] | np.integer[Any]
WholeNumber: TypeAlias = int | np.integer[Any]
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
            "diagonal", other tokens, by diagonals or lattices; or a decoder of one's own (sampling/passes.py).
        block_size: positions that `jacobi` looks at in a pass, up to two latent frames.
        conditions: what the clips are made under beside their prompts, of kinds that the model reads.
        controls: the tokens (t, *shape) of the model's given segments by name, an entry for each latent frame that is
            drawn; the default tokens follow after their end.
        callback_on_step_end: called after a pass with (passes so far, tokens (n,) of each clip as written).
        logits_processor: (input_ids (B, S) as written, scores (B, V)) -> scores; one or several, before temperature.
    """

    negative_prompt: str | Sequence[str] | None
    seed: Seeds | None
    generator: torch.Generator | Sequence[torch.Generator] | None
    guidance_scale: Number
    temperature: Number | Sequence[tuple[float, float]]
    top_k: WholeNumber | None
    top_p: Number
    min_p: Number
    height: WholeNumber | None
    width: WholeNumber | None
    decoder: Literal["auto", "sequential", "jacobi", "diagonal"] | Decoder
    block_size: WholeNumber | None
    conditions: Sequence[Condition]
    controls: Mapping[str, np.ndarray | torch.Tensor | Sequence[Any]]
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

    seconds: Number | Sequence[float] | np.ndarray | None
    num_frames: WholeNumber | Sequence[int] | np.ndarray | None
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
    prompt: Prompt
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


def check_names(call: str, options: Mapping[str, Any]) -> None:
    """Refuse options that this call does not have.

    Raises:
        ReelmError: it names the calls that have the option, or the option of this call whose name is nearest.
    """
    for name in options:
        if name in CALLS[call]:
            continue
        others = [other for other, names in CALLS.items() if name in names]
        if others:
            raise ReelmError(f"{name}: is no option of {call}; {' and '.join(others)} {_has(others)} it")
        near = difflib.get_close_matches(name, CALLS[call], n=1, cutoff=0.0)
        raise ReelmError(f"{name}: is no option of {call}; did you mean {near[0]!r}?")


def _has(calls: Sequence[str]) -> str:
    return "has" if len(calls) == 1 else "have"


def plain(value: Any) -> Any:
    """Numbers of numpy and torch as Python's own, arrays of one axis as lists; everything else as it is."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | torch.Tensor) and value.ndim <= 1 and value.dtype not in (bool, torch.bool):
        return value.tolist()
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    return value
