"""Check the names of a call's options, and convert their values to Python's own.

check_names("generate", options)                    # "sead: is no option of generate; did you mean 'seed'?"
to_python(np.int64(3))                              # 3
"""

import difflib
from collections.abc import Mapping

import numpy as np
import torch

from ..core.errors import ReelmError
from .options import ContinueOptions, GenerateOptions, StreamOptions

# The names of all options of each call, by the name of the call.
CALLS: dict[str, tuple[str, ...]] = {
    "generate": (*GenerateOptions.__annotations__, "prompt", "num_videos_per_prompt", "output_type"),
    "continue_clip": (*ContinueOptions.__annotations__, "clip", "output_type"),
    "stream": (*StreamOptions.__annotations__, "prompt"),
    "decode": ("session", "output_type"),
    "score": ("clip", "prompt", "fit"),
}


def check_names(call: str, options: Mapping[str, object]) -> None:
    """Refuse options that a call does not have.

    Raises:
        ReelmError: An option is unknown. The message names the calls that have the option, or else the option of this
            call with the most similar name, or else all options of this call.
    """
    for name in options:
        if name in CALLS[call]:
            continue
        others = [other for other, names in CALLS.items() if name in names]
        similar = difflib.get_close_matches(name, CALLS[call], n=1)
        if others:
            *most, last = others
            hint = f"{', '.join(most)} and {last} have it" if most else f"{last} has it"
        else:
            hint = f"did you mean {similar[0]!r}?" if similar else f"there are {', '.join(CALLS[call])}"
        raise ReelmError(f"{name}: is no option of {call}; {hint}")


def to_python(value: object) -> object:
    """Convert numbers of numpy and torch to Python's, and arrays with one axis to lists; return other values as is."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | torch.Tensor) and value.ndim <= 1 and value.dtype not in (bool, torch.bool):
        return value.tolist()
    if isinstance(value, list):
        return [to_python(item) for item in value]
    if type(value) is tuple:
        return tuple(to_python(item) for item in value)
    return value
