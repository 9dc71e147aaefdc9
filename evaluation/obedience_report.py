"""How often a model that is played does what the keys do in the game.

    report = obedience(recorded, recorded, play_model, fps=15)
    report["obeys"]["60s"]["right"]         # 1 is as often as in the game, and 0 is chance

A key does not show in each hold of the game either, since players stand at walls and fall, and what it does happens
without it, too. So the figure of each side is the share of the key's holds that show its effect, less the share of all
other holds that do (Youden's J statistic, 1950); and a model obeys by its figure over the game's.
"""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ..core.errors import require
from ..core.progress import progress
from .obedience import OPPOSITE, Effect, MeasuredHold, learn_effects, measure_holds
from .recorded_plays import RecordedPlay, by_world

# The holds that begin in these seconds of a play.
HORIZONS = {"1s": (0, 6), "10s": (10, 16), "60s": (60, 66)}
NONE = "none"  # the name of no key in reports
# From a play to clips (T, H, W, 3) of a model, from the play's picture and under its keys.
PlayModel: TypeAlias = Callable[[RecordedPlay], list[np.ndarray]]


def obedience(
    recorded: list[RecordedPlay], chosen: list[RecordedPlay], play_model: PlayModel, *, fps: float
) -> dict[str, Any]:
    """Return how often a model's clips do what the keys do in the game.

    Args:
        recorded: The plays of the game, of which what keys do is learnt; those in folders of their own are of worlds of
            their own.
        chosen: Those that the model plays.
        play_model: The model.
        fps: The pictures per second.

    Returns:
        effects, what each key does in each world: the direction in which the scene moves, and how many pixels at least;
        without_effect, keys of which nothing could be learnt. By the time of the hold, "1s", "10s" and "60s", and by
        key: obeys, the model's J over the game's, from 0 to 1, and the mean over the keys as "all"; and figures: how
        many holds of the game were judged, and of game and model the shares of the key's holds that show its effect and
        of others that do. Holds in which a level began anew are left out on both sides. still_without_keys is the same
        as obeys for holds without a key, whose effect is that the scene comes to rest. delay_pictures is the
        median number of the first picture that moves, in holds that show the effect. return_psnr is the mean PSNR in
        dB, after walks there and back that both show their effect, of the best picture on the way back with the first.
        A figure is None where nothing was held, or where the game shows no more than chance.

    Raises:
        ReelmError: No key has an effect that can be measured.
    """
    effects = {
        world: learn_effects(one for play in plays for one in play.measured)
        for world, plays in by_world(recorded).items()
    }
    rule = "must have keys that move the scene, each held alone several times"
    require(any(effects.values()), "recordings", rule, "none")
    played = list(_play(chosen, effects, play_model))
    held = {each.hold.key for play in recorded for each in play.measured}
    moving = sorted({key for each in effects.values() for key in each})
    tables: dict[str, dict[str, _Figures]] = {}
    for name, (first, last) in HORIZONS.items():
        inside = [each for each in played if first * fps <= each.game.hold.start < last * fps]
        tables[name] = {key: _figures(key, inside) for key in (*moving, NONE)}
    return {
        "effects": {
            world: {key: dataclasses.asdict(effect) for key, effect in each.items()} for world, each in effects.items()
        },
        "without_effect": sorted(held - {"", *moving}),
        "obeys": {name: _with_mean({key: table[key].obeys for key in moving}) for name, table in tables.items()},
        "still_without_keys": {name: table[NONE].obeys for name, table in tables.items()},
        "figures": {
            name: {key: dataclasses.asdict(row) for key, row in table.items()} for name, table in tables.items()
        },
        "delay_pictures": _delays(played),
        "return_psnr": _returns(played),
    }  # fmt: skip


@dataclass(frozen=True)
class _PlayedHold:
    """A hold of a play, in the game and in each clip of the model; with what the keys of its world do."""

    effects: dict[str, Effect]
    game: MeasuredHold
    model: list[MeasuredHold]

    @property
    def key(self) -> str:
        return self.game.hold.key or NONE


@dataclass(frozen=True)
class _Shares:
    """The share of a key's holds that show its effect, and that of other holds that do; None of no holds."""

    shows: float | None
    others_show: float | None

    @property
    def figure(self) -> float | None:
        return None if self.shows is None or self.others_show is None else self.shows - self.others_show


@dataclass(frozen=True)
class _Figures:
    """The figures of a key at one time of the plays."""

    holds: int
    game: _Shares
    model: _Shares

    @property
    def obeys(self) -> float | None:
        game, model = self.game.figure, self.model.figure
        return None if not game or game < 0 or model is None else min(1.0, max(0.0, model / game))


def _play(
    chosen: list[RecordedPlay], effects: dict[str, dict[str, Effect]], play_model: PlayModel
) -> Iterable[_PlayedHold]:
    """Yield the holds of plays, measured in the model's clips too, but those in which a level began anew."""
    for play in progress(chosen, "playing", unit="play"):
        holds = [each.hold for each in play.measured]
        clips = [measure_holds(frames_THW3, holds) for frames_THW3 in play_model(play)]
        for index, game in enumerate(play.measured):
            if not game.cut:
                yield _PlayedHold(effects[play.world], game, [clip[index] for clip in clips])


def _figures(key: str, played: list[_PlayedHold]) -> _Figures:
    """Return the figures of a key, in the worlds in which it does something, from its holds and those of other keys."""
    judged = [each for each in played if each.key == NONE or each.key in each.effects]
    judged = [each for each in judged if key == NONE or key in each.effects]
    own = [each for each in judged if each.key == key]
    others = [each for each in judged if each.key != key]

    def share(group: list[_PlayedHold], game: bool) -> float | None:
        shown = [_shows(key, each, one) for each in group for one in ([each.game] if game else each.model)]
        return statistics.mean(shown) if shown else None

    game, model = (_Shares(share(own, side), share(others, side)) for side in (True, False))
    return _Figures(len(own), game, model)


def _shows(key: str, played: _PlayedHold, measured: MeasuredHold) -> bool:
    """Return whether a hold shows the effect of a key, which need not be the one that is held."""
    return measured.rests if key == NONE else played.effects[key].shown_in(measured)


def _with_mean(figures: dict[str, float | None]) -> dict[str, float | None]:
    known = [value for value in figures.values() if value is not None]
    return figures | {"all": statistics.mean(known) if known else None}


def _delays(played: list[_PlayedHold]) -> dict[str, float | None]:
    """Return the median delay of the effects of keys, in pictures, where they show."""
    delays: dict[str, list[int]] = {"game": [], "model": []}
    for each in played:
        effect = each.effects.get(each.key)
        if effect is not None:
            for side, group in (("game", [each.game]), ("model", each.model)):
                found = (one.delay(effect.direction) for one in group if effect.shown_in(one))
                delays[side] += [delay for delay in found if delay is not None]
    return {side: statistics.median(values) if values else None for side, values in delays.items()}


def _returns(played: list[_PlayedHold]) -> dict[str, float | None]:
    """Return the mean PSNR of ways back: holds after one whose key does the opposite, where both show it."""
    back: dict[str, list[float]] = {"game": [], "model": []}
    for before, after in itertools.pairwise(played):
        one, other = before.effects.get(before.key), after.effects.get(after.key)
        adjacent = before.game.hold.stop == after.game.hold.start
        if one is None or other is None or not adjacent or one.direction != OPPOSITE[other.direction]:
            continue
        walks = {"game": [(before.game, after.game)], "model": list(zip(before.model, after.model, strict=True))}
        for side, pairs in walks.items():
            back[side] += [
                there.back for here, there in pairs
                if there.back is not None and one.shown_in(here) and other.shown_in(there)
            ]  # fmt: skip
    return {side: statistics.mean(values) if values else None for side, values in back.items()}
