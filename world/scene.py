"""Scenes: the exact factors of one clip of the world, drawn from a seed, and the split into training and held-out ones.

    scene = sample_scene(seed=7, index=0, split="train")
    scene.objects[0].colour, scene.background, scene.camera

Lengths are in pixels of a picture 64 pixels high, speeds in such pixels per frame at 8 frames a second. They suit a
tokenizer that compresses 4 frames and 8 x 8 pixels into one token: in four frames a slow object moves half a token, a
fast one and a panning camera a whole token.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..core.errors import require

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white")
SHAPES = ("ball", "square", "triangle", "ring", "star", "cross")
MOTIONS = ("left", "right", "up", "down", "bounces", "circles", "spins", "grows", "shrinks", "still")
SPEEDS = ("slowly", "fast")
SIZES = ("small", "big")
BACKGROUNDS = ("night", "grass", "sand", "snow", "sunset", "checkerboard")
CAMERAS = ("still", "pans left", "pans right", "zooms in", "zooms out")
Split = Literal["train", "held-out", "all"]

FPS = 8
RADIUS = {"small": 11.0, "big": 15.0}
TRAVEL = {"slowly": 1.0, "fast": 2.0}  # pixels a frame
STEP = 4  # objects start on a grid of this many pixels, backgrounds lie on one of twice as many
TWO_OBJECTS = 0.15  # the share of clips with a second object
_HORIZONTAL, _VERTICAL = ("left", "right"), ("up", "down", "bounces")


@dataclass(frozen=True)
class Thing:
    """One object: its factors, and the place (x, y) of its centre in frame 0, in pixels from the middle."""

    size: str
    colour: str
    shape: str
    motion: str
    speed: str
    x: float
    y: float
    phase: float  # radians: where on its circle, or how far turned, the object is in frame 0


@dataclass(frozen=True)
class Scene:
    """Every factor of one clip: objects (front first), background with its offset in pixels, and camera."""

    objects: tuple[Thing, ...]
    background: str
    camera: str
    offset_x: float
    offset_y: float

    def to_dict(self) -> dict:
        """The factors as plain JSON values."""
        return dataclasses.asdict(self)


def is_held_out(colour: str, shape: str, motion: str) -> bool:
    """Whether training never sees this combination: one in eight, chosen by a hash."""
    return hashlib.sha256(f"{colour}/{shape}/{motion}".encode()).digest()[0] < 32


def sample_scene(seed: int, index: int = 0, *, split: Split = "train", objects: int | None = None) -> Scene:
    """The scene number `index` of the endless list that `seed` names; the same wherever it is asked for.

    `split` says which combinations of colour, shape and motion the objects may have. `objects` is 1 or 2, or None for
    mostly one.

    Raises:
        ReelmError: `split` or `objects` is none of these.
    """
    require(split in ("train", "held-out", "all"), "split", "must be 'train', 'held-out' or 'all'", split)
    require(objects in (None, 1, 2), "objects", "must be 1, 2 or None", objects)
    rng = np.random.default_rng([seed, index])
    count = objects or (2 if rng.random() < TWO_OBJECTS else 1)
    things = [_sample_thing(rng, split, place) for place in ([None] if count == 1 else [-1, 1])]
    if count == 2:
        things = _apart(rng, split, *things)
    return Scene(
        objects=tuple(things),
        background=str(rng.choice(BACKGROUNDS)),
        camera=str(rng.choice(CAMERAS, p=[0.36, 0.16, 0.16, 0.16, 0.16])),
        offset_x=float(rng.integers(16 // STEP) * 2 * STEP),
        offset_y=float(rng.integers(16 // STEP) * 2 * STEP),
    )


def _sample_thing(rng: np.random.Generator, split: Split, place: int | None) -> Thing:
    while True:
        colour, shape, motion = str(rng.choice(COLOURS)), str(rng.choice(SHAPES)), str(rng.choice(MOTIONS))
        if split == "all" or is_held_out(colour, shape, motion) == (split == "held-out"):
            break
    # Two objects are small ones, so that they start apart.
    size = "small" if place is not None else str(rng.choice(SIZES))
    thing = Thing(size, colour, shape, motion, str(rng.choice(SPEEDS)), 0.0, 0.0, phase=0.0)
    return dataclasses.replace(
        thing,
        x=_start(rng, thing, axis=0),
        y=_start(rng, thing, axis=1),
        phase=float(rng.integers(8)) * np.pi / 4 if motion == "circles" else 0.0,
    )


def _start(rng: np.random.Generator, thing: Thing, axis: int) -> float:
    """A start on the grid from which the object's way over the first two seconds lies inside the picture."""
    step = velocity(thing)[axis]
    reach = {"bounces": 6.0 * axis, "circles": 8.0, "grows": 3.0, "shrinks": 3.0}.get(thing.motion, 0.0)
    room = max(0.0, 32 - RADIUS[thing.size] * 1.2 - reach - abs(step) * 8)
    steps = int(room // STEP)  # of the grid, around the start that centres the way
    return -step * 8 + int(rng.integers(-steps, steps + 1)) * STEP


def _apart(rng: np.random.Generator, split: Split, first: Thing, second: Thing) -> list[Thing]:
    """Put two objects side by side, or one above the other where one of them moves sideways."""
    motions = {first.motion, second.motion}
    # Of two colours, and on ways that do not cross.
    while second.colour == first.colour or (motions & set(_HORIZONTAL) and motions & set(_VERTICAL)):
        second = _sample_thing(rng, split, 1)
        motions = {first.motion, second.motion}
    if motions & set(_HORIZONTAL):
        return [dataclasses.replace(first, y=-16.0), dataclasses.replace(second, y=16.0)]
    return [dataclasses.replace(first, x=-16.0), dataclasses.replace(second, x=16.0)]


def velocity(thing: Thing) -> tuple[float, float]:
    """Pixels a frame to the right and downwards, for the four straight motions; (0, 0) for the others."""
    x, y = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}.get(thing.motion, (0, 0))
    return x * TRAVEL[thing.speed], y * TRAVEL[thing.speed]
