"""Write the caption of a scene: one English sentence, with several phrasings for each factor.

write_caption(scene, np.random.default_rng(0))       # training: some factors are not mentioned
write_caption(scene, rng, complete=True)             # evaluation: mentions every factor that is judged

A caption never says anything that is not true of its scene. A factor that it does not mention may have any value.
"""

import numpy as np

from .scene import Scene, SceneObject

SHAPE_WORDS = {
    "ball": ("ball", "ball", "circle", "disc"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "ring": ("ring", "ring", "hoop"),
    "star": ("star",),
    "cross": ("cross", "cross", "plus"),
}
SIZE_WORDS = {"small": ("small", "little"), "big": ("big", "large")}
COLOUR_WORDS = {"purple": ("purple", "purple", "violet"), "cyan": ("cyan", "cyan", "turquoise")}
_VERBS = ("moves", "travels", "goes", "glides", "rolls")
MOTION_WORDS = {
    "left": tuple(f"{verb} {where}" for verb in _VERBS for where in ("left", "to the left")),
    "right": tuple(f"{verb} {where}" for verb in _VERBS for where in ("right", "to the right")),
    "up": ("moves up", "rises", "travels upwards", "goes up"),
    "down": ("moves down", "sinks", "travels downwards", "goes down", "falls"),
    "bounces": ("bounces", "bounces up and down", "hops", "jumps up and down"),
    "circles": ("circles", "moves in a circle", "goes around in a circle", "orbits"),
    "spins": ("spins", "rotates", "turns around itself", "is spinning"),
    "grows": ("grows", "gets bigger", "expands", "is growing"),
    "shrinks": ("shrinks", "gets smaller", "is shrinking"),
    "still": ("stays still", "does not move", "rests", "stands still"),
}
SPEED_WORDS = {"slowly": ("slowly", "gently"), "fast": ("fast", "quickly")}
BACKGROUND_WORDS = {
    "night": ("at night", "in the night", "under the stars", "in a night sky"),
    "grass": ("over grass", "on grass", "on a meadow", "on green grass"),
    "sand": ("over sand", "on sand", "in the desert", "on a beach"),
    "snow": ("over snow", "on snow", "in the snow"),
    "sunset": ("at sunset", "in front of a sunset", "in the evening sky"),
    "checkerboard": ("over a checkerboard", "on a checkerboard", "on a checkered floor"),
}
CAMERA_WORDS = {
    "still": ("the camera is still", "the camera does not move", "static camera"),
    "pans left": ("the camera pans left", "the camera pans to the left", "the camera moves left"),
    "pans right": ("the camera pans right", "the camera pans to the right", "the camera moves right"),
    "zooms in": ("the camera zooms in", "zooming in"),
    "zooms out": ("the camera zooms out", "zooming out"),
}


def write_caption(scene: Scene, rng: np.random.Generator, *, complete: bool = False) -> str:
    """Return one sentence that describes a scene.

    Args:
        scene: The scene to describe.
        rng: The generator that draws the phrasings and the factors to mention.
        complete: Mention every factor that is judged.
    """

    def keep(probability: float) -> bool:
        return complete or rng.random() < probability

    def pick(words: tuple[str, ...]) -> str:
        return words[rng.integers(len(words))]

    def describe(item: SceneObject) -> str:
        moves = item.motion != "still"
        words = [
            "a",
            pick(SIZE_WORDS[item.size]) if rng.random() < 0.4 else "",
            pick(COLOUR_WORDS.get(item.colour, (item.colour,))) if keep(0.97) else "",
            pick(SHAPE_WORDS[item.shape]) if keep(0.97) else pick(("thing", "shape", "object")),
        ]
        if keep(0.95):
            words.append(pick(MOTION_WORDS[item.motion]))
            words.append(pick(SPEED_WORDS[item.speed]) if moves and rng.random() < 0.4 else "")
        return (
            " ".join(word for word in words if word).replace("a orange", "an orange").replace("a object", "an object")
        )

    text = pick((" and ", " while ")).join(describe(item) for item in scene.objects)
    if keep(0.9):
        where = pick(BACKGROUND_WORDS[scene.background])
        text = f"{where}, {text}" if rng.random() < 0.1 else f"{text} {where}"
    if keep(0.8):
        text += pick((", ", ", ", " while ", " and ")) + pick(CAMERA_WORDS[scene.camera])
    return text
