"""The options of a training run, recorded in its folder, so that `resume` alone goes on with it.

    options = agreed_options(Path("runs/lm"), ModelRun(recipe=LMTraining()), resume=False)
    record_options(Path("runs/lm"), options)                              # before the first work
    agreed_options(Path("runs/lm"), ModelRun(), resume=True)              # all of them, from the folder

An option that is None was not given. Options that are given to a resumed run must be those that it began with, except
for its length, how often it writes, among how many processes it is divided, and the default sampling settings and the
name of its model.
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from ..core.config import check_same, differences, from_dict
from ..core.errors import require
from ..core.folders import FolderKind, check_folder, kind_of, mark_folder, options_of
from ..core.json_values import Json
from ..data.encode import Windows
from ..sampling.plan import SamplingConfig
from .lm_training import LMTraining
from .loop import MAY_CHANGE
from .state_folders import newest_state
from .tokenizer_training import TokenizerTraining

Preset = Literal["tiny", "small", "base"]
Compression = Literal["4x8x8", "8x8x8", "4x16x16", "8x16x16"]


@dataclass(frozen=True, kw_only=True)
class TokenizerRun:
    """The options of `train_video_tokenizer`, by their names there."""

    kind: ClassVar[FolderKind] = "training of a tokenizer"
    data: Path | None = None
    fps: float | None = None
    preset: Preset | None = None
    compression: Compression | None = None
    init: str | None = None
    decoder_of: Path | None = None
    recipe: TokenizerTraining | None = None


@dataclass(frozen=True, kw_only=True)
class ModelRun:
    """The options of `train_language_model`, by their names there."""

    kind: ClassVar[FolderKind] = "training of a language model"
    data: Path | None = None
    tokenizer: Path | None = None
    fps: float | None = None
    text: Path | None = None
    init: str | None = None
    name: str | None = None
    windows: Windows | None = None
    sampling: SamplingConfig | None = None
    recipe: LMTraining | None = None


AnyRun = TypeVar("AnyRun", TokenizerRun, ModelRun)


def agreed_options(out: Path, given: AnyRun, *, resume: bool | Literal["auto"]) -> AnyRun:
    """Check that a run can begin or go on in `out`, and return its options; nothing is written.

    A run that was interrupted before its first checkpoint may go on with `resume`, or begin again without it.

    Args:
        out: The folder of the run.
        given: The options that are given.
        resume: Whether the run in the folder is to go on; "auto" for whether there is one.

    Raises:
        ReelmError: The folder is not one of a run of this kind; it holds a run and `resume` is False, or it holds none
            and `resume` is True; or an option differs from that of the run that goes on.
    """
    check_folder(out, given.kind)
    require(resume in (True, False, "auto"), "resume", "must be True, False or 'auto'", resume)
    if resume == "auto":
        resume = kind_of(out) == given.kind
    if not resume:
        rule = "must be a new folder, or be given with --resume to go on with the run in it"
        require(newest_state(out) is None, "out", rule, str(out))
        return given
    recorded = recorded_options(out, type(given))
    require(recorded is not None, "resume", "must be left out where the folder holds no run", str(out))
    assert recorded is not None
    places: dict[str, Any] = dict(_agreed_places(given, recorded))
    others = [field.name for field in dataclasses.fields(given) if field.name not in places]
    chosen: dict[str, Any] = {name: getattr(given, name) for name in others if getattr(given, name) is not None}
    agreed = dataclasses.replace(recorded, **places, **chosen)
    now, before = _plain(agreed), _plain(recorded)
    free: set[str] = {name for name in differences(now, before) if name == "name" or name.startswith("sampling.")}
    check_same(now, before, {*MAY_CHANGE, *free, *places})
    return agreed


def _plain(options: AnyRun) -> Json:
    """Return the options as JSON values; those of the recipe are not below a name of their own."""
    values: Json = json.loads(json.dumps(dataclasses.asdict(options), default=str))
    recipe = values.pop("recipe")
    return values | (recipe if isinstance(recipe, dict) else {})


def _place_names(cls: type[AnyRun]) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if "Path" in str(field.type)]


def _agreed_places(given: AnyRun, recorded: AnyRun) -> Iterator[tuple[str, Path | None]]:
    """Yield the files and folders of a resumed run; one that was moved since may be given at its new place."""
    for name in _place_names(type(given)):
        new, old = getattr(given, name), getattr(recorded, name)
        if new is not None and old is not None and old.exists():
            rule = "must be as in the run that goes on, or be left out"
            require(new.resolve() == old.resolve(), name, rule, str(new))
        yield name, old if new is None else new


def record_options(out: Path, options: AnyRun) -> None:
    """Make the folder of a run, with its options; files and folders are recorded by their path from there."""
    values = json.loads(json.dumps(dataclasses.asdict(options), default=str))
    for name in _place_names(type(options)):
        if values[name] is not None:
            values[name] = _path_from(out, values[name])
    mark_folder(out, options.kind, values)


def recorded_options(out: Path, cls: type[AnyRun]) -> AnyRun | None:
    """Return the options of the run in a folder, or None if it holds no run of this kind.

    Raises:
        ReelmError: The record is damaged.
    """
    if kind_of(out) != cls.kind:
        return None
    values = options_of(out)
    for name in _place_names(cls):
        if values.get(name) is not None:
            values[name] = os.path.normpath(out / str(values[name]))
    return from_dict(cls, values, "reelm.json")


def _path_from(out: Path, place: str) -> str:
    try:
        return os.path.relpath(place, out)
    except ValueError:  # another drive, on Windows
        return str(Path(place).resolve())
