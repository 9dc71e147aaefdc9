"""Plays of the real game, with which those of a model are compared: first pictures, keys, and what was measured.

    plays = read_plays(Path("held-out"), fps=15, height=64, width=64)      # a folder of clips with their keys
    save_plays(Path("model"), plays)                                       # measured once, without the clips
    plays = load_plays(Path("model"))

A clip has its keys beside it, as for `reelm prepare`, and its caption is the prompt.
"""

import dataclasses
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.checkpoint import find_checkpoint, load_tensors, read_json, save_json, save_tensors
from ..core.controls import ControlTrack, read_written
from ..core.errors import CheckpointError, ReelmError, require
from ..core.json_values import JsonValue
from ..core.progress import note, progress
from ..data.control_files import read_controls
from ..data.recode import noted
from ..data.resampled_controls import resampled_controls
from ..data.sources import Source, find_sources, read_captions
from ..generation.generator import VideoGenerator
from ..media.fitting import Fit
from ..media.streaming import stream_clip, stream_fitted
from .obedience import Hold, Reach, find_holds, judge_holds

PLAYS, PICTURES = "plays.json", "plays.safetensors"  # beside the weights of a model


@dataclass(frozen=True, eq=False)
class RecordedPlay:
    """A play of the real game.

    Attributes:
        name: The path of its clip in the folder of recordings.
        prompt: The caption of the world.
        picture_HW3: The first picture, uint8, from which a model plays on.
        track: What was held while each picture was shown.
        judged: What was measured in each hold of a single key, or of none.
    """

    name: str
    prompt: str
    picture_HW3: np.ndarray
    track: ControlTrack
    judged: tuple[tuple[Hold, Reach], ...]

    @property
    def world(self) -> str:
        """The folder of its clip: what is in folders of their own are plays of different games."""
        return self.name.rpartition("/")[0]


def plays_for(generator: VideoGenerator, recordings: Path | None, *, save: bool = False) -> list[RecordedPlay]:
    """Return the plays of a folder of recordings at a model's rate and size, or those that are kept beside the model.

    Args:
        generator: The model.
        recordings: The folder; None reads what is kept.
        save: Whether what was measured of the recordings is kept beside the model.

    Raises:
        ReelmError: The folder has no plays that can be read; nothing is kept; or the model was made in memory.
    """
    config, origin = generator.parts.config, generator.parts.origin
    kept = None if origin is None else find_checkpoint(origin[0], **origin[1])
    require(recordings is not None or kept is not None, "recordings", "must be given for a model in memory", None)
    require(not save or (recordings is not None and kept is not None), "save_recordings",
            "must be given with recordings, and for a model in a folder", save)  # fmt: skip
    if recordings is None:
        assert kept is not None
        return load_plays(kept)
    plays = read_plays(recordings, fps=config.fps, height=config.height, width=config.width)
    if save:
        assert kept is not None
        save_plays(kept, plays)
    return plays


def read_plays(folder: Path, *, fps: float, height: int, width: int, fit: Fit = "crop") -> list[RecordedPlay]:
    """Read the clips of a folder that have keys beside them, at this rate and size, and measure them.

    Raises:
        ReelmError: There is no such folder, or no clip with keys that can be read.
    """
    require(folder.is_dir(), "recordings", "must be an existing folder", str(folder))
    plays, skipped = [], []
    for source in progress(find_sources(folder).sources, "measuring the game", unit="clip"):
        try:
            play = _read_play(source, fps, height, width, fit)
        except ReelmError as error:
            skipped.append(f"{source.name} ({error})")
            continue
        plays += [] if play is None else [play]
    if skipped:
        note(f"warning: {len(skipped)} clips were left out: {'; '.join(skipped[:3])}")
    require(bool(plays), "recordings", "must have clips with keys beside them that can be read", str(folder))
    return plays


def _read_play(source: Source, fps: float, height: int, width: int, fit: Fit) -> RecordedPlay | None:
    recording = read_controls(source)
    if recording is None:
        return None
    clip, spans = stream_clip(source.path), array("d")
    timed = dataclasses.replace(clip, frames=noted(clip.frames, spans))
    frames_THW3 = np.stack(list(stream_fitted(timed, fps=fps, height=height, width=width, fit=fit)))
    spans_T2 = np.array(spans).reshape(-1, 2)
    track = recording.checked(spans_T2, fps=clip.fps)
    track = resampled_controls(track, spans_T2, fps=fps, count=len(frames_THW3))
    # What is held during the last picture shows in none.
    holds = find_holds(track[: len(track) - 1], fps=fps)
    prompt = (*read_captions(source), "")[0]
    return RecordedPlay(source.name, prompt, frames_THW3[0], track, judge_holds(frames_THW3, holds, cuts=True))


def save_plays(folder: Path, plays: list[RecordedPlay]) -> None:
    """Write plays, without their clips, to plays.json and, their first pictures, plays.safetensors."""
    table: list[JsonValue] = [
        {
            "name": play.name, "prompt": play.prompt, "keys": play.track.written,
            "axes": {name: list(turns) for name, turns in play.track.axes.items()},
            "judged": [[*dataclasses.astuple(hold), *dataclasses.astuple(reach)] for hold, reach in play.judged],
        }
        for play in plays
    ]  # fmt: skip
    pictures_NHW3 = torch.from_numpy(np.stack([play.picture_HW3 for play in plays]))
    save_tensors(folder / PICTURES, {"pictures": pictures_NHW3})
    save_json(folder / PLAYS, {"plays": table})


def load_plays(folder: Path) -> list[RecordedPlay]:
    """Read the plays that `save_plays` wrote into a folder.

    Raises:
        CheckpointError: There are none, or they are damaged.
    """
    table: Any = read_json(folder / PLAYS).get("plays")
    tensors = load_tensors(folder / PICTURES)
    try:
        return [
            RecordedPlay(
                entry["name"], entry["prompt"], picture_HW3,
                ControlTrack(read_written(entry["keys"]).keys, entry["axes"]),
                tuple((Hold(*values[:3]), Reach(*values[3:])) for values in entry["judged"]),
            )
            for entry, picture_HW3 in zip(table, tensors["pictures"].numpy(), strict=True)
        ]  # fmt: skip
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"model: {PLAYS} and {PICTURES} must be as reelm writes them, got {error!r}") from error
