"""Scenes: the factors of a rendered clip, drawn from a seed, and their split into training and held-out scenes.

    scene = sample_scene(seed=7, index=0, split="train")
    scene.objects[0].colour, scene.background, scene.camera

Lengths are in pixels of a picture 64 pixels high, and speeds in such pixels per frame at 8 frames per second. They were
chosen for a tokenizer that compresses 4 frames of 8 x 8 pixels into one token: in four frames a slow object moves by
half a token, and a fast object or a panning camera by a whole token.
"""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..core.errors import require
from ..core.json_values import Json

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white")
SHAPES = ("ball", "square", "triangle", "ring", "star", "cross")
MOTIONS = ("left", "right", "up", "down", "bounces", "circles", "spins", "grows", "shrinks", "still")
SPEEDS = ("slowly", "fast")
SIZES = ("small", "big")
BACKGROUNDS = ("night", "grass", "sand", "snow", "sunset", "checkerboard")
CAMERAS = ("still", "pans left", "pans right", "zooms in", "zooms out")
Split = Literal["train", "held-out", "all"]

FPS = 8
RADIUS = {"small": 11.0, "big": 15.0}  # pixels
PIXELS_PER_FRAME = {"slowly": 1.0, "fast": 2.0}
GRID = 4  # pixels between the possible start positions of an object; twice that between the offsets of a background
TWO_OBJECTS = 0.15  # the share of clips with a second object
_HORIZONTAL, _VERTICAL = ("left", "right"), ("up", "down", "bounces")


@dataclass(frozen=True)
class SceneObject:
    """The factors of one object.

    Attributes:
        size: One of `SIZES`.
        colour: One of `COLOURS`.
        shape: One of `SHAPES`.
        motion: One of `MOTIONS`.
        speed: One of `SPEEDS`.
        x: The position of the centre in frame 0, in pixels to the right of the middle of the picture.
        y: The position of the centre in frame 0, in pixels below the middle of the picture.
        phase: The angle on its circle in frame 0, in radians; 0 for an object that does not circle.
    """

    size: str
    colour: str
    shape: str
    motion: str
    speed: str
    x: float
    y: float
    phase: float


@dataclass(frozen=True)
class Scene:
    """The factors of one clip.

    Attributes:
        objects: The objects, front first.
        background: One of `BACKGROUNDS`.
        camera: One of `CAMERAS`.
        offset_x: The horizontal offset of the background in pixels.
        offset_y: The vertical offset of the background in pixels.
    """

    objects: tuple[SceneObject, ...]
    background: str
    camera: str
    offset_x: float
    offset_y: float

    def to_dict(self) -> Json:
        """Return the factors as JSON values."""
        return dataclasses.asdict(self)


def is_held_out(colour: str, shape: str, motion: str) -> bool:
    """Return whether this combination is held out from training: one in eight is, chosen by a hash."""
    return hashlib.sha256(f"{colour}/{shape}/{motion}".encode()).digest()[0] < 32


def sample_scene(seed: int, index: int = 0, *, split: Split = "train", objects: int | None = None) -> Scene:
    """Return scene number `index` of the infinite sequence of `seed`; it depends on the arguments alone.

    Args:
        seed: The seed of the sequence.
        index: The index of the scene in the sequence.
        split: The combinations of colour, shape and motion that the objects may have: train, held-out or all.
        objects: The number of objects, 1 or 2; None draws it, with two objects in `TWO_OBJECTS` of all scenes.

    Raises:
        ReelmError: `split` or `objects` has another value.
    """
    require(split in ("train", "held-out", "all"), "split", "must be 'train', 'held-out' or 'all'", split)
    require(objects in (None, 1, 2), "objects", "must be 1, 2 or None", objects)
    rng = np.random.default_rng([seed, index])
    count = objects or (2 if rng.random() < TWO_OBJECTS else 1)
    # Two objects are small ones, so that they start apart.
    items = [_sample_object(rng, split, small=count == 2) for _ in range(count)]
    if count == 2:
        items = _move_apart(rng, split, *items)
    return Scene(
        objects=tuple(items),
        background=str(rng.choice(BACKGROUNDS)),
        camera=str(rng.choice(CAMERAS, p=[0.36, 0.16, 0.16, 0.16, 0.16])),
        offset_x=float(rng.integers(16 // GRID) * 2 * GRID),
        offset_y=float(rng.integers(16 // GRID) * 2 * GRID),
    )


def _sample_object(rng: np.random.Generator, split: Split, *, small: bool) -> SceneObject:
    while True:
        colour, shape, motion = str(rng.choice(COLOURS)), str(rng.choice(SHAPES)), str(rng.choice(MOTIONS))
        if split == "all" or is_held_out(colour, shape, motion) == (split == "held-out"):
            break
    size = "small" if small else str(rng.choice(SIZES))
    item = SceneObject(size, colour, shape, motion, str(rng.choice(SPEEDS)), 0.0, 0.0, phase=0.0)
    return dataclasses.replace(
        item,
        x=_start_position(rng, item, axis=0),
        y=_start_position(rng, item, axis=1),
        phase=float(rng.integers(8)) * np.pi / 4 if motion == "circles" else 0.0,
    )


def _start_position(rng: np.random.Generator, item: SceneObject, axis: int) -> float:
    """Draw a coordinate on the grid from which the object stays inside the picture for the first two seconds."""
    speed = velocity(item)[axis]
    reach = {"bounces": 6.0 * axis, "circles": 8.0, "grows": 3.0, "shrinks": 3.0}.get(item.motion, 0.0)
    margin = max(0.0, 32 - RADIUS[item.size] * 1.2 - reach - abs(speed) * 8)
    steps = int(margin // GRID)
    # Relative to the start whose path over these 16 frames has its centre in the middle of the picture.
    return -speed * 8 + int(rng.integers(-steps, steps + 1)) * GRID


def _move_apart(rng: np.random.Generator, split: Split, first: SceneObject, second: SceneObject) -> list[SceneObject]:
    """Put two objects side by side, or one above the other if either moves sideways.

    The second one is drawn again until the two have different colours and paths that do not cross.
    """
    motions = {first.motion, second.motion}
    while second.colour == first.colour or (motions & set(_HORIZONTAL) and motions & set(_VERTICAL)):
        second = _sample_object(rng, split, small=True)
        motions = {first.motion, second.motion}
    if motions & set(_HORIZONTAL):
        return [dataclasses.replace(first, y=-16.0), dataclasses.replace(second, y=16.0)]
    return [dataclasses.replace(first, x=-16.0), dataclasses.replace(second, x=16.0)]


def velocity(item: SceneObject) -> tuple[float, float]:
    """Return the velocity in pixels per frame, right and down; (0, 0) unless the object moves in a straight line."""
    x, y = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}.get(item.motion, (0, 0))
    return x * PIXELS_PER_FRAME[item.speed], y * PIXELS_PER_FRAME[item.speed]
