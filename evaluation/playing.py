"""Evaluation of a model that is played: how often it does what the keys do in the real game, and what long play does.

    report = evaluate_play(generator, Path("held-out"), samples=4)
    report["obeys"]["60s"]["right"]         # the share of holds with this effect, over that of the game

The model plays on from the first picture of each recorded play under the same keys, and the same judge measures its
pictures and the game's. A key does not always show, since players stand at walls and fall: so the game's own share is
the measure, and 1 is as often as there.
"""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Iterable
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
from .obedience import OPPOSITE, Effect, Hold, Reach, does, judge_holds, learn_effects
from .recorded_plays import RecordedPlay, plays_for
from .world_clips import EvaluationReport, check_sheet

# The holds that begin in these seconds of a play.
HORIZONS = {"1s": (0, 6), "10s": (10, 16), "60s": (60, 66)}
SHEET_CLIPS, SHEET_SECONDS = 12, 2
# From a play to clips (T, H, W, 3) of a model, from its picture and under its keys.
Player = Callable[[RecordedPlay], list[np.ndarray]]
Judged = tuple[Hold, Reach]


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
        plays: The most recordings to play; all unless given.
        samples: The clips that the model makes of each play.
        seed: The seed of the noise, and of the keys of the long play.
        minutes: The length of a play under random keys, whose first and last minutes are compared; 0 is none.
        contact_sheet: The PNG file for the first seconds of the first plays, if given.

    Returns:
        The figures of `obedience`; drift, with the token entropy, the number of different tokens and the sharpness of
        the first and the last minute, and their ratio; the model, the numbers of plays and samples, and the seed.

    Raises:
        ReelmError: An argument is out of its range, there are no recordings, or the model does not have their keys.
    """
    require(samples >= 1, "samples", "must be at least 1", samples)
    require(
        minutes == 0 or minutes >= 2, "minutes", "must be 0, or at least 2 to compare the last with the first", minutes
    )
    require(plays is None or plays >= 1, "plays", "must be at least 1", plays)
    if contact_sheet is not None:
        check_sheet(contact_sheet)
    config = generator.parts.config
    controller = controller_of(config.lm)
    require(bool(controller), "model", "must be one that is played by keys", generator.parts.name)
    recorded = plays_for(generator, recordings, save=save_recordings)[:plays]
    for play in recorded:
        controller.check(play.track)
    shown: list[np.ndarray] = []

    def player(play: RecordedPlay) -> list[np.ndarray]:
        videos = generator.continue_clip(
            image=play.picture_HW3, prompt=play.prompt, keys=play.track[: len(play.track) - 1], seed=seed,
            num_videos_per_prompt=samples,
        )  # fmt: skip
        shown.append(videos[0].frames[: 1 + round(SHEET_SECONDS * config.fps)])
        return [video.frames for video in videos]

    report = EvaluationReport(model=generator.parts.name, plays=len(recorded), samples=samples, seed=seed)
    report |= obedience(recorded, player, fps=config.fps)
    if contact_sheet is not None:
        frames = min(map(len, shown))
        write_contact_sheet(contact_sheet, torch.from_numpy(np.stack([clip[:frames] for clip in shown[:SHEET_CLIPS]])))
    if minutes:
        report["drift"] = _drift(generator, recorded[0].prompt, minutes, seed)
    report["versions"] = library_versions()
    return report


def obedience(plays: list[RecordedPlay], player: Player, *, fps: float) -> dict[str, Any]:
    """Return how often a player's clips do what the keys do in the game.

    Args:
        plays: The plays of the game.
        player: The model.
        fps: The pictures per second.

    Returns:
        effects, what each key does: the direction in which the scene moves, and how many pixels at least; keys without
        a measurable effect are left out. By the time of the hold, "1s", "10s" and "60s", and by key: obeys, the share
        of the model's holds that do it over that of the game's, at most 1, and their mean as "all";
        still_without_keys, the same of holds without a key, whose scene comes to rest; shares_of_the_game and
        shares_of_the_model, with "" for no key; and holds, how many of the game's were judged: those in which its level
        began anew are left out on both sides. return_psnr, of walks there and back: the mean PSNR in dB of the best
        picture on the way back with the first, in the game and in the model. A figure is None where nothing was held.
    """
    effects = learn_effects(each for play in plays for each in play.judged)
    pairs: list[tuple[Judged, list[Judged]]] = []
    for play in progress(plays, "playing", unit="play"):
        kept = [hold for hold, _ in play.judged]
        clips = [judge_holds(frames_THW3, kept) for frames_THW3 in player(play)]
        pairs += [(one, [clip[index] for clip in clips]) for index, one in enumerate(play.judged)]
    pairs = [pair for pair in pairs if not pair[0][1].cut]
    game: dict[str, dict[str, float | None]] = {}
    model: dict[str, dict[str, float | None]] = {}
    holds: dict[str, dict[str, int]] = {}
    for name, (first, last) in HORIZONS.items():
        inside = [pair for pair in pairs if first * fps <= pair[0][0].start < last * fps]
        by_key = {key: [pair for pair in inside if pair[0][0].key == key] for key in (*effects, "")}
        holds[name] = {key: len(found) for key, found in by_key.items()}
        game[name] = {key: _share(key, (pair[0] for pair in found), effects) for key, found in by_key.items()}
        model[name] = {
            key: _share(key, (each for pair in found for each in pair[1]), effects) for key, found in by_key.items()
        }
    ratios = {name: {key: _ratio(model[name][key], game[name][key]) for key in game[name]} for name in HORIZONS}
    return {
        "effects": {key: dataclasses.asdict(effect) for key, effect in effects.items()},
        "obeys": {name: _with_mean({key: by[key] for key in effects}) for name, by in ratios.items()},
        "still_without_keys": {name: by[""] for name, by in ratios.items()},
        "shares_of_the_game": game, "shares_of_the_model": model, "holds": holds,
        "return_psnr": _returns(pairs, effects),
    }  # fmt: skip


def _share(key: str, judged: Iterable[Judged], effects: dict[str, Effect]) -> float | None:
    done = [does(key, reach, effects) for _, reach in judged]
    return statistics.mean(done) if done else None


def _ratio(model: float | None, game: float | None) -> float | None:
    return min(1.0, model / game) if model is not None and game else None


def _with_mean(figures: dict[str, float | None]) -> dict[str, float | None]:
    known = [value for value in figures.values() if value is not None]
    return figures | {"all": statistics.mean(known) if known else None}


def _returns(pairs: list[tuple[Judged, list[Judged]]], effects: dict[str, Effect]) -> dict[str, float | None]:
    """Return the mean PSNR of ways back: holds after one whose key does the opposite."""
    back: dict[str, list[float]] = {"game": [], "model": []}
    for ((before, _), _), ((hold, reach), clips) in itertools.pairwise(pairs):
        one, other = effects.get(before.key), effects.get(hold.key)
        if one is None or other is None or before.stop != hold.start or one.direction != OPPOSITE[other.direction]:
            continue
        back["game"] += [] if reach.back is None else [reach.back]
        back["model"] += [each.back for _, each in clips if each.back is not None]
    return {side: statistics.mean(values) if values else None for side, values in back.items()}


def _drift(generator: VideoGenerator, prompt: str, minutes: int, seed: int) -> dict[str, Any]:
    """Compare the last minute of a play under random keys with the first."""
    config = generator.parts.config
    track = random_track(controller_of(config.lm).keys, round(60 * minutes * config.fps), fps=config.fps, seed=seed)
    video = generator.generate(prompt, keys=track, seed=seed)
    windows = [each for each in generator.drift(video, window_seconds=60)["windows"] if each["latent_frames"] > 1]
    first, last = windows[0], windows[minutes - 1]
    return {
        name: {"first_minute": first[name], "last_minute": last[name], "ratio": last[name] / first[name]}
        for name in ("token_entropy_nats", "distinct_tokens", "sharpness")
    }
