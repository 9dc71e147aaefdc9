"""What is held while a clip is drawn: the user's keys and axes as the given tokens of latent frames.

controls = read_controls(config, {"keys": "d-8,d+jump-4,none-2"}, continuing=False)        # {"keys": (8, 2)}
length_of_keys(config, options, continuing=False)                                          # {"num_frames": 15}
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..core.controls import KEYS, Controller, ControlTrack, read_written
from ..core.errors import ReelmError, require
from ..core.plain_values import to_python
from .arguments import is_number
from .pretrained import ModelConfig, controller_of

NO_KEYS = "must not be given: this model is not played by keys or axes"


def read_controls(config: ModelConfig, given: Mapping[str, Any], *, continuing: bool) -> dict[str, torch.Tensor]:
    """Return the tokens (t, *shape) of given segments by name, from a call's options.

    Args:
        config: The config of the model.
        given: The options, of which `controls` has tokens, and `keys` and `axes` what is held.
        continuing: Whether a clip is continued, so that the first picture that is drawn follows one that was shown.

    Raises:
        ReelmError: They do not fit the model, or each other.
    """
    track = read_track(controller_of(config.lm), given.get(KEYS), given.get("axes"))
    controls = given.get("controls", {})
    if track is None:
        return _check_tokens(config, controls)
    require(not controls, "controls", "must not be given with keys or axes, which are the same", sorted(controls))
    return controller_of(config.lm).tokens(track, first=not continuing)


def length_of_keys(config: ModelConfig, given: Mapping[str, Any], *, continuing: bool) -> dict[str, int]:
    """Return the option `num_frames` of a clip in which all that is held shows; nothing where no keys are given.

    What is held during the last frame would show after it.

    Raises:
        ReelmError: A length is given too, and is another one.
    """
    track = read_track(controller_of(config.lm), given.get(KEYS), given.get("axes"))
    if track is None:
        return {}
    require(len(track) > 0, "keys, axes", "must be held for at least one frame", len(track))
    seconds, num_frames = given.get("seconds"), given.get("num_frames")
    frames = len(track) + (0 if continuing else 1)
    lengths = num_frames if seconds is None else seconds
    for length in lengths if isinstance(lengths, list | tuple) else [lengths]:
        wanted = max(1, round(length * config.fps)) if seconds is not None and is_number(length) else length
        rule = f"must be held for {'each frame' if continuing else 'each frame but the last'}: the clip has {wanted}"
        require(wanted is None or wanted == frames, "keys, axes", rule, len(track))
    return {"num_frames": frames} if lengths is None else {}


def read_track(controller: Controller, keys: Any, axes: Any) -> ControlTrack | None:
    """Return what is held during each picture; None where neither keys nor axes are given.

    Args:
        controller: The keys and axes of the model.
        keys: The written form, a set of keys for each picture, an array (n, keys) of 0 and 1 in the controller's order,
            or a `ControlTrack`.
        axes: The turns of each picture by the name of the axis.

    Raises:
        ReelmError: The model has no controller, a name is unknown (the nearest one is named), or a form is wrong.
    """
    if keys is None and axes is None:
        return None
    require(bool(controller), KEYS if axes is None else "axes", NO_KEYS, keys if axes is None else axes)
    turns = {} if axes is None else _turns(axes)
    if isinstance(keys, ControlTrack):
        held, turns = keys.keys, {**keys.axes, **turns}
    elif isinstance(keys, str):
        held = read_written(keys, known=controller.keys).keys
    elif keys is not None:
        held = tuple(_held(controller, keys))
    else:
        held = (frozenset(),) * len(next(iter(turns.values())))
    track = ControlTrack(held, turns)
    controller.check(track)
    return track


def held_now(keys: Any, known: Sequence[str]) -> frozenset[str]:
    """Return a set of held keys, given as names, or as one name, "none" or names joined by "+"."""
    if isinstance(keys, str):
        held = read_written(f"{keys or 'none'}-1", known=known).keys
        require(len(held) == 1, KEYS, "must be one set of names", keys)
        return held[0]
    fits = isinstance(keys, Collection) and all(isinstance(name, str) for name in keys)
    require(fits, KEYS, "must be sets of names", keys)
    return frozenset(map(str, keys))


def turns_now(axes: Any, pictures: int) -> dict[str, tuple[float, ...]]:
    """Return the turns of axes during each of so many pictures, from one number for each axis."""
    require(axes is None or isinstance(axes, Mapping), "axes", "must be turns by the names of axes", axes)
    turns = {}
    for name, turn in (axes or {}).items():
        number: Any = to_python(turn)
        require(type(number) in (int, float), f"axes[{name!r}]", "must be a number", turn)
        turns[name] = (float(number),) * pictures
    return turns


def _held(controller: Controller, keys: Any) -> list[frozenset[str]]:
    """Return the set of held keys of each picture."""
    if isinstance(keys, np.ndarray | torch.Tensor):
        array = np.asarray(keys.cpu() if isinstance(keys, torch.Tensor) else keys)
        count = len(controller.keys)
        fits = array.ndim == 2 and array.shape[1] == count and bool(np.isin(array, (0, 1)).all())
        require(fits, KEYS, f"must be an array (n, {count}) of 0 and 1", (array.shape, str(array.dtype)))
        return [frozenset(np.array(controller.keys)[row.astype(bool)].tolist()) for row in array]
    require(isinstance(keys, list | tuple), KEYS, "must be written, or a set of names for each picture", keys)
    return [held_now(each, controller.keys) for each in keys]


def _turns(axes: Any) -> dict[str, tuple[float, ...]]:
    """Return the turns of each axis as plain numbers."""
    require(isinstance(axes, Mapping) and bool(axes), "axes", "must be lists of turns by the names of axes", axes)
    turns = {}
    for name, values in axes.items():
        plain: Any = to_python(values)
        numbers = isinstance(plain, list | tuple) and all(type(value) in (int, float) for value in plain)
        require(numbers, f"axes[{name!r}]", "must be a list of numbers", values)
        turns[name] = tuple(float(value) for value in plain)
    return turns


def _check_tokens(config: ModelConfig, controls: Any) -> dict[str, torch.Tensor]:
    """Check tokens that are given as they are."""
    found, given = {}, [segment for segment in config.lm.layout.segments if segment.given]
    require(isinstance(controls, Mapping), "controls", "must be tokens by the names of given segments", controls)
    for name, values in controls.items():
        known = [segment for segment in given if segment.name == name]
        names = ", ".join(segment.name for segment in given)
        rule = f"must be of the given segments {names}" if given else "must be none: this model has no given segments"
        require(bool(known), "controls", rule, name)
        (segment,) = known
        rule = f"must be whole numbers of shape (t, {', '.join(map(str, segment.shape))})"
        try:
            tokens = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
        except (TypeError, ValueError) as error:  # lists of several lengths, a dtype that numpy does not have
            raise ReelmError(f"controls[{name!r}]: {rule}: {error}") from error
        fits = tokens.ndim >= 1 and tokens.shape[1:] == segment.shape and tokens.dtype.kind in "iu"
        require(fits, f"controls[{name!r}]", rule, (tokens.shape, str(tokens.dtype)))
        outside = tokens[(tokens < 0) | (tokens >= segment.vocab_size)]
        require(not outside.size, f"controls[{name!r}]", f"must be from 0 to {segment.vocab_size - 1}", outside[:5])
        found[name] = torch.from_numpy(tokens.astype(np.int64))
    return found
