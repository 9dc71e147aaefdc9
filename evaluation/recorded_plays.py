"""Plays of the real game, with which those of a model are compared: first pictures, keys, and what was measured.

    plays = plays_for(generator, Path("held-out"), save=True)      # a folder of clips with their keys beside them
    plays = plays_for(generator, None)                             # what was kept of it beside the model

A clip has its keys beside it, as for `reelm prepare`, and its caption, if it has one, is the prompt. What is kept are
the files plays.json and plays.safetensors, which hold all but the clips.
"""

import dataclasses
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..core.checkpoint import find_checkpoint, load_tensors, read_json, save_tensors
from ..core.config import from_dict, to_dict
from ..core.controls import Controller, ControlTrack, read_written
from ..core.errors import CheckpointError, ClipError, ReelmError, require
from ..core.files import atomic_write
from ..core.json_values import json_text
from ..core.progress import note, progress
from ..data.control_files import read_controls
from ..data.recode import noted
from ..data.resampled_controls import resampled_controls
from ..data.sources import Source, find_sources, read_captions
from ..generation.generator import VideoGenerator
from ..generation.pretrained import ModelConfig, controller_of
from ..media.streaming import stream_clip, stream_fitted
from .motion import LEAST_SIDE
from .obedience import MeasuredHold, find_holds, measure_holds

PLAYS, PICTURES, FORMAT = "plays.json", "plays.safetensors", 1


@dataclass(frozen=True, eq=False)
class RecordedPlay:
    """A play of the real game.

    Attributes:
        name: The path of its clip in the folder of recordings.
        prompt: The caption of the world; "" for none.
        picture_HW3: The first picture, uint8, from which a model plays on.
        track: What was held while each picture was shown.
        measured: What was measured in each hold of a single key, or of none.
    """

    name: str
    prompt: str
    picture_HW3: np.ndarray
    track: ControlTrack
    measured: tuple[MeasuredHold, ...]

    @property
    def world(self) -> str:
        """The folder of its clip: what is in folders of their own are plays of different games."""
        return self.name.rpartition("/")[0]


def by_world(plays: Iterable[RecordedPlay]) -> dict[str, list[RecordedPlay]]:
    """Return the plays of each world."""
    worlds: dict[str, list[RecordedPlay]] = {}
    for play in plays:
        worlds.setdefault(play.world, []).append(play)
    return worlds


@dataclass(frozen=True)
class _Axis:
    name: str
    turns: tuple[float, ...]


@dataclass(frozen=True)
class _Play:
    """A `RecordedPlay` as JSON values."""

    name: str
    prompt: str
    keys: str
    axes: tuple[_Axis, ...]
    measured: tuple[MeasuredHold, ...]


@dataclass(frozen=True)
class _Plays:
    """What plays.json holds: plays at the rate and size of a model."""

    format: int
    fps: float
    height: int
    width: int
    plays: tuple[_Play, ...]


def plays_for(generator: VideoGenerator, recordings: Path | None, *, save: bool = False) -> list[RecordedPlay]:
    """Return the plays of a folder of recordings at a model's rate and size, or those that are kept beside the model.

    Args:
        generator: The model.
        recordings: The folder; None reads what is kept.
        save: Whether what was measured of the recordings is kept beside the model.

    Raises:
        ReelmError: The model is not played by keys, or its pictures are too small; the folder has no plays that can be
            used; nothing is kept; or the model was made in memory.
    """
    config, origin = generator.parts.config, generator.parts.origin
    controller = controller_of(config.lm)
    require(bool(controller.keys), "model", "must be one that is played by keys", generator.parts.name)
    size = (config.height, config.width)
    require(min(size) >= LEAST_SIDE, "model", f"must have pictures of at least {LEAST_SIDE} pixels a side", size)
    kept = None if origin is None else find_checkpoint(origin[0], **origin[1])
    require(not save or (recordings is not None and kept is not None), "save_recordings",
            "must be given with recordings, and for a model in a folder", save)  # fmt: skip
    if recordings is not None:
        plays = _read_plays(recordings, config, controller)
        if save and kept is not None:
            _save_plays(kept, plays, config)
        return plays
    found = kept is not None and (kept / PLAYS).is_file()
    require(found, "recordings", "must be given: this model has none of its own", None)
    assert kept is not None
    return _load_plays(kept, config, controller)


def _read_plays(folder: Path, config: ModelConfig, controller: Controller) -> list[RecordedPlay]:
    """Read the clips of a folder that have keys beside them, at the model's rate and size, and measure them."""
    require(folder.is_dir(), "recordings", "must be an existing folder", str(folder))
    plays, skipped = [], []
    for source in progress(find_sources(folder).sources, "measuring the game", unit="clip"):
        try:
            play = _read_play(source, config, controller)
        except ClipError as error:
            skipped.append(f"{source.name} ({error})")
            continue
        plays += [] if play is None else [play]
    reasons = "; ".join(skipped[:3])
    if not plays:
        rule = "must have clips with keys beside them, in which keys are held alone for a second"
        raise ReelmError(f"recordings: {rule}, got none in {str(folder)!r}{': ' if reasons else ''}{reasons}")
    if skipped:
        note(f"warning: {len(skipped)} clips were left out: {reasons}")
    return plays


def _read_play(source: Source, config: ModelConfig, controller: Controller) -> RecordedPlay | None:
    """Read a clip; None where it has no keys, or none that are held alone.

    Raises:
        ClipError: The clip or its keys cannot be read.
        ReelmError: The model does not have its keys.
    """
    recording = read_controls(source)
    if recording is None:
        return None
    try:
        controller.check(recording.track)
    except ReelmError as error:
        raise ReelmError(f"{source.name}: {error}") from error
    clip, spans = stream_clip(source.path), array("d")
    timed = dataclasses.replace(clip, frames=noted(clip.frames, spans))
    fitted = stream_fitted(timed, fps=config.fps, height=config.height, width=config.width, fit="crop")
    frames_THW3 = np.stack(list(fitted))
    spans_T2 = np.array(spans).reshape(-1, 2)
    track = recording.checked(spans_T2, fps=clip.fps)
    track = resampled_controls(track, spans_T2, fps=config.fps, count=len(frames_THW3))
    holds = find_holds(track[: len(track) - 1], fps=config.fps)  # what is held during the last picture shows in none
    prompt = (*read_captions(source), "")[0]
    measured = tuple(measure_holds(frames_THW3, holds, cuts=True))
    return RecordedPlay(source.name, prompt, frames_THW3[0], track, measured) if holds else None


def _save_plays(folder: Path, plays: list[RecordedPlay], config: ModelConfig) -> None:
    table = _Plays(FORMAT, config.fps, config.height, config.width, tuple(
        _Play(play.name, play.prompt, play.track.written,
              tuple(_Axis(name, turns) for name, turns in play.track.axes.items()), play.measured)
        for play in plays
    ))  # fmt: skip
    pictures_NHW3 = torch.from_numpy(np.stack([play.picture_HW3 for play in plays]))
    save_tensors(folder / PICTURES, {"pictures": pictures_NHW3})
    atomic_write(folder / PLAYS, json_text(to_dict(table)) + "\n")  # on one line: it is four times as long otherwise


def _load_plays(folder: Path, config: ModelConfig, controller: Controller) -> list[RecordedPlay]:
    """Read what `_save_plays` wrote into a model's folder, and check that it fits the model."""
    try:
        table = from_dict(_Plays, read_json(folder / PLAYS), PLAYS)
        pictures_NHW3 = load_tensors(folder / PICTURES)["pictures"].numpy()
        made, wanted = (
            (each.fps, each.height, each.width) for each in (table, config)
        )  # fmt: skip
        require(table.format == FORMAT, "format", f"must be {FORMAT}", table.format)
        require(made == wanted, "fps, height, width", f"must be {wanted}, as the model's", made)
        shape, least = pictures_NHW3.shape, (len(table.plays), config.height, config.width, 3)
        require(shape == least and pictures_NHW3.dtype == np.uint8, "pictures", f"must be {least} uint8", shape)
        plays = []
        for entry, picture_HW3 in zip(table.plays, pictures_NHW3, strict=True):
            track = ControlTrack(read_written(entry.keys).keys, {axis.name: axis.turns for axis in entry.axes})
            controller.check(track)
            for each in entry.measured:
                hold, places = each.hold, {len(place) for place in each.path}
                fits = 0 <= hold.start < hold.stop < len(track) and len(each.path) == hold.stop - hold.start + 1
                require(fits and places == {3}, "measured", "must be of pictures of the play", hold)
            plays.append(RecordedPlay(entry.name, entry.prompt, picture_HW3, track, entry.measured))
        return plays
    except (KeyError, ReelmError) as error:
        raise CheckpointError(f"model: {PLAYS} and {PICTURES} must be as reelm writes them, got {error}") from error
