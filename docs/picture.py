"""Draw the README's picture: an animated webp of clips by the bundled model, with their prompts.

.venv/bin/python docs/picture.py            # writes docs/world.webp
"""

from pathlib import Path

from PIL import Image, ImageDraw

import reelm

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
SCALE, COLUMNS = 3, 4  # enlargement of a clip, clips per row
LABEL_HEIGHT, GAP = 30, 8  # pixels


def main() -> None:
    """Generate the clips with the seeds 0, 1, 2, … and draw them."""
    generator = reelm.VideoGenerator.from_pretrained("world")
    videos = generator.generate(list(PROMPTS), seed=list(range(len(PROMPTS))), seconds=4)
    assert isinstance(videos, list)
    side = 64 * SCALE
    rows = -(-len(PROMPTS) // COLUMNS)
    size = (COLUMNS * (side + GAP) + GAP, rows * (side + LABEL_HEIGHT + GAP) + GAP)
    pictures = []
    for time in range(len(videos[0].frames)):
        picture = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(picture)
        for index, (prompt, video) in enumerate(zip(PROMPTS, videos, strict=True)):
            x = GAP + index % COLUMNS * (side + GAP)
            y = GAP + index // COLUMNS * (side + LABEL_HEIGHT + GAP)
            frame = Image.fromarray(video.frames[time]).resize((side, side), Image.Resampling.BICUBIC)
            picture.paste(frame, (x, y))
            end = prompt.rfind(" ", 0, 34) if len(prompt) > 34 else len(prompt)  # of the first line
            draw.text((x, y + side + 2), f"{prompt[:end]}\n{prompt[end:].strip()}", fill="black", font_size=11)
        pictures.append(picture)
    path = Path(__file__).parent / "world.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=125, loop=0, quality=60)


if __name__ == "__main__":
    main()
