"""Evaluation of a model that is played: how often it does what the keys do in the real game, and what long play does.

    report = evaluate_play(generator, Path("held-out"), samples=4)
    report["obeys"]["60s"]["right"]         # 1 is as often as in the game, and 0 is chance

The model plays on from the first picture of each recorded play under the same keys, and the same judge measures its
pictures and the game's (obedience_report.py).
"""

import itertools
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..bench.machine import library_versions
from ..core.errors import require
from ..core.progress import progress
from ..generation.generator import VideoGenerator
from ..generation.play_clock import random_track
from ..generation.pretrained import controller_of
from ..media.contact_sheet import write_contact_sheet
from .obedience_report import obedience
from .recorded_plays import RecordedPlay, by_world, plays_for
from .world_clips import EvaluationReport, check_sheet

SHEET_CLIPS, SHEET_SECONDS = 12, 2


def evaluate_play(
    generator: VideoGenerator,
    recordings: Path | None = None,
    *,
    save_recordings: bool = False,
    plays: int | None = None,
    samples: int = 4,
    seed: int = 0,
    minutes: int = 0,
    contact_sheet: Path | None = None,
) -> EvaluationReport:
    """Play a model under the keys of recorded plays, and judge both.

    Args:
        generator: The model.
        recordings: The folder of clips of the game with their keys beside them; those that are kept beside the model
            unless given.
        save_recordings: Whether what was measured of the recordings is kept beside the model.
        plays: The most recordings to play, in turn from each world; all unless given.
        samples: The clips that the model makes of each play.
        seed: The seed of the noise, and of the keys of the long play.
        minutes: The length of a play of each world under random keys, whose first and last minutes are compared; 0 is
            none.
        contact_sheet: The PNG file for the first seconds of the first plays, if given.

    Returns:
        The figures of `obedience`; drift, with the token entropy, the number of different tokens and the sharpness of
        the first and the last minute, means over the worlds, and the ratio of each (None to 0); the model, the numbers
        of plays and samples, and the seed.

    Raises:
        ReelmError: An argument is out of its range, the model is not played by keys, there are no recordings, or the
            model does not have their keys.
    """
    require(samples >= 1, "samples", "must be at least 1", samples)
    require(minutes == 0 or minutes >= 2, "minutes", "must be 0, or at least 2: the last is compared with the first",
            minutes)  # fmt: skip
    require(plays is None or plays >= 1, "plays", "must be at least 1", plays)
    if contact_sheet is not None:
        check_sheet(contact_sheet)
    recorded = plays_for(generator, recordings, save=save_recordings)
    fps, shown = generator.fps, list[np.ndarray]()

    def play_model(play: RecordedPlay) -> list[np.ndarray]:
        videos = generator.continue_clip(
            image=play.picture_HW3, prompt=play.prompt or None, keys=play.track[: len(play.track) - 1], seed=seed,
            num_videos_per_prompt=samples,
        )  # fmt: skip
        if contact_sheet is not None and len(shown) < SHEET_CLIPS:
            shown.append(videos[0].frames[: 1 + round(SHEET_SECONDS * fps)].copy())
        return [video.frames for video in videos]

    chosen = _in_turn(recorded)[:plays]
    report = EvaluationReport(model=generator.parts.name, plays=len(chosen), samples=samples, seed=seed)
    report |= obedience(recorded, chosen, play_model, fps=fps)
    if contact_sheet is not None:
        frames = min(map(len, shown))
        write_contact_sheet(contact_sheet, torch.from_numpy(np.stack([clip[:frames] for clip in shown])))
    if minutes:
        report["drift"] = _drift(generator, recorded, minutes, seed)
    report["versions"] = library_versions()
    return report


def _in_turn(plays: list[RecordedPlay]) -> list[RecordedPlay]:
    """Return the plays with the first of each world before all second ones, and so on."""
    rounds = itertools.zip_longest(*by_world(plays).values())
    return [play for each in rounds for play in each if play is not None]


def _drift(generator: VideoGenerator, recorded: list[RecordedPlay], minutes: int, seed: int) -> dict[str, Any]:
    """Compare the last minute of plays under random keys with the first, one of each world."""
    config, names = generator.parts.config, ("token_entropy_nats", "distinct_tokens", "sharpness")
    track = random_track(controller_of(config.lm).keys, round(60 * minutes * config.fps), fps=config.fps, seed=seed)
    first: dict[str, list[float]] = {name: [] for name in names}
    last: dict[str, list[float]] = {name: [] for name in names}
    prompts = [plays[0].prompt or None for plays in by_world(recorded).values()]
    for prompt in progress(prompts, "playing for long", unit="world"):
        windows = generator.drift(generator.generate(prompt, keys=track, seed=seed), window_seconds=60)["windows"]
        for name in names:
            first[name].append(windows[0][name])
            last[name].append(windows[minutes - 1][name])
    means = {name: (statistics.mean(first[name]), statistics.mean(last[name])) for name in names}
    return {
        name: {"first_minute": begin, "last_minute": end, "ratio": end / begin if begin else None}
        for name, (begin, end) in means.items()
    }
