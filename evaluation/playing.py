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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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


@dataclass(frozen=True)
class _Held:
    """A hold that the game and the clips of the model have in common, and what was measured in each."""

    hold: Hold
    effects: dict[str, Effect]
    game: Reach
    model: list[Reach]

    def done(self) -> tuple[bool, list[bool]]:
        """Return whether the game, and whether each clip, does what the key does."""
        key = self.hold.key
        return does(key, self.game, self.effects), [does(key, reach, self.effects) for reach in self.model]


def obedience(plays: list[RecordedPlay], player: Player, *, fps: float) -> dict[str, Any]:
    """Return how often a player's clips do what the keys do in the game.

    Args:
        plays: The plays of the game; those in folders of their own are of worlds of their own.
        player: The model.
        fps: The pictures per second.

    Returns:
        effects, what each key does in each world: the direction in which the scene moves, and how many pixels at least;
        keys without a measurable effect are left out. By the time of the hold, "1s", "10s" and "60s", and by key:
        obeys, the share of the model's holds that do it over that of the game's, at most 1, and their mean as "all";
        still_without_keys, the same of holds without a key, whose scene comes to rest; shares_of_the_game and
        shares_of_the_model, with "" for no key; and holds, how many of the game's were judged: those in which its level
        began anew are left out on both sides. return_psnr, of walks there and back: the mean PSNR in dB of the best
        picture on the way back with the first, in the game and in the model. A figure is None where nothing was held.
    """
    worlds: dict[str, list[RecordedPlay]] = {}
    for play in plays:
        worlds.setdefault(play.world, []).append(play)
    effects = {name: learn_effects(one for play in each for one in play.judged) for name, each in worlds.items()}
    helds: list[_Held] = []
    for play in progress(plays, "playing", unit="play"):
        known = effects[play.world]
        holds = [hold for hold, _ in play.judged]
        clips = [judge_holds(frames_THW3, holds) for frames_THW3 in player(play)]
        helds += [
            _Held(hold, known, reach, [clip[index][1] for clip in clips])
            for index, (hold, reach) in enumerate(play.judged)
            if not reach.cut and hold.key in ("", *known)
        ]
    keys = sorted({held.hold.key for held in helds} - {""})
    tables = {
        name: _by_key(
            [held for held in helds if first * fps <= held.hold.start < last * fps], keys
        ) for name, (first, last) in HORIZONS.items()
    }  # fmt: skip
    return {
        "effects": {
            name: {key: dataclasses.asdict(effect) for key, effect in known.items()} for name, known in effects.items()
        },
        "obeys": {name: _with_mean({key: table[key].ratio for key in keys}) for name, table in tables.items()},
        "still_without_keys": {name: table[""].ratio for name, table in tables.items()},
        "shares_of_the_game": {name: {key: row.game for key, row in by.items()} for name, by in tables.items()},
        "shares_of_the_model": {name: {key: row.model for key, row in by.items()} for name, by in tables.items()},
        "holds": {name: {key: row.holds for key, row in by.items()} for name, by in tables.items()},
        "return_psnr": _returns(helds),
    }  # fmt: skip


class _Row(NamedTuple):
    """The figures of a key at one time of the plays."""

    holds: int
    game: float | None
    model: float | None

    @property
    def ratio(self) -> float | None:
        return min(1.0, self.model / self.game) if self.model is not None and self.game else None


def _by_key(helds: list[_Held], keys: list[str]) -> dict[str, _Row]:
    table = {}
    for key in (*keys, ""):
        done = [held.done() for held in helds if held.hold.key == key]
        game, model = [one for one, _ in done], [each for _, clips in done for each in clips]
        table[key] = _Row(len(done), *(statistics.mean(side) if side else None for side in (game, model)))
    return table


def _with_mean(figures: dict[str, float | None]) -> dict[str, float | None]:
    known = [value for value in figures.values() if value is not None]
    return figures | {"all": statistics.mean(known) if known else None}


def _returns(helds: list[_Held]) -> dict[str, float | None]:
    """Return the mean PSNR of ways back: holds after one whose key does the opposite."""
    back: dict[str, list[float]] = {"game": [], "model": []}
    for before, held in itertools.pairwise(helds):
        one, other = before.effects.get(before.hold.key), held.effects.get(held.hold.key)
        if one is None or other is None or before.hold.stop != held.hold.start:
            continue
        if one.direction == OPPOSITE[other.direction]:
            back["game"] += [] if held.game.back is None else [held.game.back]
            back["model"] += [reach.back for reach in held.model if reach.back is not None]
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
