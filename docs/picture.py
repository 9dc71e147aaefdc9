"""Draw the README's picture: clips of the bundled model under their prompts, as an animated webp.

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
SCALE, COLUMNS, LINE, GAP = 3, 4, 30, 8


def main() -> None:
    """Generate the clips with seeds 0, 1, 2, ... and draw them."""
    generator = reelm.VideoGenerator.from_pretrained("world")
    videos = generator.generate(list(PROMPTS), seed=list(range(len(PROMPTS))), seconds=4)
    assert isinstance(videos, list)
    side = 64 * SCALE
    rows = -(-len(PROMPTS) // COLUMNS)
    size = (COLUMNS * (side + GAP) + GAP, rows * (side + LINE + GAP) + GAP)
    pages = []
    for time in range(len(videos[0].frames)):
        page = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(page)
        for index, (prompt, video) in enumerate(zip(PROMPTS, videos, strict=True)):
            x = GAP + index % COLUMNS * (side + GAP)
            y = GAP + index // COLUMNS * (side + LINE + GAP)
            frame = Image.fromarray(video.frames[time]).resize((side, side), Image.Resampling.BICUBIC)
            page.paste(frame, (x, y))
            cut = prompt.rfind(" ", 0, 34) if len(prompt) > 34 else len(prompt)
            draw.text((x, y + side + 2), f"{prompt[:cut]}\n{prompt[cut:].strip()}", fill="black", font_size=11)
        pages.append(page)
    pages[0].save(
        Path(__file__).parent / "world.webp", save_all=True, append_images=pages[1:], duration=125, loop=0, quality=60
    )


if __name__ == "__main__":
    main()
