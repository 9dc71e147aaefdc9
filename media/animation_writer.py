"""Writing of animated images and folders of PNGs by imageio.

write_animation(Path("ball.gif"), ".gif", frames_THW3, 8, pack_metadata(None, info))
write_picture_folder(Path("ball"), frames_THW3, pack_metadata(None, info))
"""

import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import numpy as np

FRAME_NAME = "frame_{:06d}.png"


def write_animation(path: Path, suffix: str, frames_THW3: np.ndarray, fps: float, text: str) -> None:
    """Write a gif or webp.

    Args:
        path: The file to write.
        suffix: The format, ".gif" or ".webp".
        frames_THW3: The frames, uint8.
        fps: The frames per second.
        text: The metadata from `pack_metadata`.
    """
    import imageio.v3 as iio

    # Times are rounded, not durations, so that a long clip keeps its rate: 24 fps in a gif is 40, 40, 50 ms, ...
    tick = 10 if suffix == ".gif" else 1
    ends = np.rint(np.arange(len(frames_THW3) + 1) * 1000 / fps / tick).astype(int) * tick
    durations = np.diff(ends).tolist()
    options: dict[str, Any] = {"duration": durations if len(durations) > 1 else durations[0]}
    if suffix == ".gif":
        options |= {"comment": text.encode(), "loop": 0}
    else:
        from PIL import Image

        exif = Image.Exif()
        exif[0x010E] = text  # ImageDescription
        options |= {"exif": exif.tobytes(), "quality": 90, "loop": 0}
    iio.imwrite(path, frames_THW3, plugin="pillow", extension=suffix, **options)


def write_picture_folder(path: Path, frames_THW3: np.ndarray, text: str) -> None:
    """Write a folder of PNGs with a settings.json; an old folder at `path` is replaced when the new one is complete.

    Args:
        path: The folder to write.
        frames_THW3: The frames, uint8.
        text: The metadata from `pack_metadata`.
    """
    import imageio.v3 as iio

    temporary = path.with_name(f".{path.name[:40]}-{secrets.token_hex(4)}")
    old = path.with_name(f"{temporary.name}-old")
    temporary.mkdir()
    try:
        for index, frame in enumerate(frames_THW3):
            iio.imwrite(temporary / FRAME_NAME.format(index), frame, plugin="pillow", extension=".png")
        (temporary / "settings.json").write_text(text + "\n", encoding="utf-8")
        # A folder cannot replace a non-empty one in one step, so the old one is renamed first.
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except BaseException:
            if old.exists():
                os.replace(old, path)
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
