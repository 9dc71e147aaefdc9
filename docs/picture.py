"""Draw the README's pictures: animated webps of clips by the bundled models, with their prompts.

.venv/bin/python docs/picture.py            # writes docs/world.webp, docs/run.webp and docs/halls.webp
"""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

import reelm
from reelm.core.controls import read_written

PROMPTS = (
    "a red ball moves to the right over grass",
    "a blue ring spins on snow",
    "a big yellow star grows at night",
    "a green cross bounces on a checkerboard",
    "a white triangle falls at sunset",
    "a purple square goes around in a circle on sand",
    "an orange ball rests, the camera pans right on snow",
    "a cyan square moves left, the camera zooms in at night",
)
# The worlds of the models that are played, and what is held in them.
PLAYS = {
    "run": (
        (
            "a coin run at night on grass, the player on a ledge",
            "a coin run at night on sand, the player on the ground",
            "a turquoise cave at night, the rabbit on the ground",
            "a blue tower at night, the climber on the ground",
        ),
        "right-18,right+up-10,right-12,none-8,left-15,left+up-12",
    ),
    "halls": (
        (
            "halls of many rooms, the way is free",
            "halls of many rooms, a wall ahead",
            "a maze of grey walls, the way is free",
            "a yard with green walls, the way is free, a medkit in sight",
        ),
        "w-12,l+w-12,w-8,j-15,none-6,s-8",
    ),
}
SCALE, COLUMNS = 3, 4  # enlargement of a clip, clips per row
LABEL_HEIGHT, GAP = 30, 8  # pixels


def draw(name: str, videos: Sequence[reelm.Video], labels: Sequence[Sequence[str]]) -> None:
    """Write an animation of clips side by side, with a label below each for each of its pictures."""
    side = 64 * SCALE
    rows = -(-len(videos) // COLUMNS)
    size = (COLUMNS * (side + GAP) + GAP, rows * (side + LABEL_HEIGHT + GAP) + GAP)
    pictures = []
    for time in range(len(videos[0].frames)):
        picture = Image.new("RGB", size, "white")
        pen = ImageDraw.Draw(picture)
        for index, (video, texts) in enumerate(zip(videos, labels, strict=True)):
            x = GAP + index % COLUMNS * (side + GAP)
            y = GAP + index // COLUMNS * (side + LABEL_HEIGHT + GAP)
            frame = Image.fromarray(video.frames[time]).resize((side, side), Image.Resampling.BICUBIC)
            picture.paste(frame, (x, y))
            pen.text((x, y + side + 2), texts[time], fill="black", font_size=11)
        pictures.append(picture)
    path, duration = Path(__file__).parent / name, round(1000 / videos[0].fps)
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration, loop=0, quality=60)


def in_two_lines(text: str) -> str:
    """Return a text in at most two lines of a label."""
    end = text.rfind(" ", 0, 34) if len(text) > 34 else len(text)
    return f"{text[:end]}\n{text[end:].strip()}"


def main() -> None:
    """Generate the clips with the seeds 0, 1, 2, … and draw them."""
    generator = reelm.VideoGenerator.from_pretrained("world")
    videos = generator.generate(list(PROMPTS), seed=list(range(len(PROMPTS))), seconds=4)
    draw("world.webp", videos, [[in_two_lines(prompt)] * len(videos[0].frames) for prompt in PROMPTS])
    for name, (worlds, written) in PLAYS.items():
        player = reelm.VideoGenerator.from_pretrained(name)
        plays = player.generate(list(worlds), seed=list(range(len(worlds))), keys=written)
        held = ["", *(" ".join(sorted(keys)) for keys in read_written(written).keys)]
        draw(f"{name}.webp", plays, [[f"{world.split(',')[0]}\n{keys}" for keys in held] for world in worlds])


if __name__ == "__main__":
    main()
