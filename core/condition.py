"""Conditions: inputs other than a clip's own earlier tokens that guide its sampling, such as a prompt or a picture.

conditions = (Text("a red ball"), Frames(picture_THW3, role="reference"))
describe_conditions(conditions)                 # ["text", "frames:reference"]

A language model lists the kinds of conditions that it can use (`LanguageModel.reads`). How it encodes them, for example
as prefix slots or as states for cross-attention, is up to the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from .errors import require
from .plain_values import to_tensor

FrameRole = Literal["reference", "first", "last"]
GuidanceMethod = Literal["auto", "two-row"]  # see `SamplingConfig.guidance`


@dataclass(frozen=True)
class Text:
    """A text prompt; an empty prompt means unconditional generation.

    Attributes:
        text: The words of the prompt.
    """

    text: str = ""

    @property
    def kind(self) -> str:
        """The name of this kind of condition, as `LanguageModel.reads` lists it."""
        return "text"


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames that the clip should resemble, begin with or end with.

    Attributes:
        frames_THW3: The frames, uint8 RGB, as a tensor or an array.
        role: "reference" for frames that show what things look like, "first" and "last" for those that the clip begins
            and ends with.
    """

    frames_THW3: torch.Tensor
    role: FrameRole = "reference"

    def __post_init__(self) -> None:
        if isinstance(self.frames_THW3, np.ndarray):
            object.__setattr__(self, "frames_THW3", to_tensor(self.frames_THW3))
        frames = self.frames_THW3
        require(isinstance(frames, torch.Tensor), "frames_THW3", "must be a tensor or an array", type(frames).__name__)
        fits = frames.ndim == 4 and frames.shape[3] == 3 and frames.dtype == torch.uint8 and frames.numel() > 0
        require(fits, "frames_THW3", "must be (T, H, W, 3) uint8", (tuple(frames.shape), str(frames.dtype)))
        require(self.role in get_args(FrameRole), "role", f"must be one of {get_args(FrameRole)}", self.role)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frames) or self.role != other.role:
            return False
        return torch.equal(self.frames_THW3.cpu(), other.frames_THW3.cpu())

    __hash__ = None  # type: ignore[assignment]  # tensors that compare by value have no hash

    @property
    def kind(self) -> str:
        """The name of this kind of condition, as `LanguageModel.reads` lists it."""
        return f"frames:{self.role}"


@dataclass(frozen=True, eq=False)
class Embedding:
    """The output of an external encoder.

    Attributes:
        states_SD: S states of D channels, floating-point, as a tensor or an array.
    """

    states_SD: torch.Tensor

    def __post_init__(self) -> None:
        if isinstance(self.states_SD, np.ndarray):
            object.__setattr__(self, "states_SD", to_tensor(self.states_SD))
        found = type(self.states_SD).__name__
        require(isinstance(self.states_SD, torch.Tensor), "states_SD", "must be a tensor or an array", found)
        fits = self.states_SD.ndim == 2 and self.states_SD.is_floating_point() and self.states_SD.numel() > 0
        shown = (tuple(self.states_SD.shape), str(self.states_SD.dtype))
        require(fits, "states_SD", "must be (S, D) floating-point numbers", shown)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Embedding) and torch.equal(self.states_SD.cpu(), other.states_SD.cpu())

    __hash__ = None  # type: ignore[assignment]  # tensors that compare by value have no hash

    @property
    def kind(self) -> str:
        """The name of this kind of condition, as `LanguageModel.reads` lists it."""
        return "embedding"


Condition = Text | Frames | Embedding


def describe_conditions(conditions: Sequence[Condition]) -> list[str]:
    """Return the kind of each condition, as a saved clip records it."""
    return [condition.kind for condition in conditions]
