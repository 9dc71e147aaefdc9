"""Reading of images, animated images and folders of images by Pillow.

clip = read_image(Path("cat.gif"), limits, kept_seconds=math.inf)
clip = read_folder(Path("clip"), limits, kept_seconds=2.0)
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import ClipError
from .clip import ROUNDING, Clip, ClipLimits, build_clip, unpack_metadata

if TYPE_CHECKING:
    from PIL import Image

IMAGE_FORMATS = ("GIF", "WEBP", "PNG", "JPEG", "BMP")


def read_image(path: Path, limits: ClipLimits, kept_seconds: float) -> Clip:
    """Read an image (a clip of one frame) or an animated image.

    Args:
        path: The file.
        limits: The limits on its size.
        kept_seconds: The seconds at the end of the clip to keep.

    Raises:
        ClipError: The file is cut, or exceeds the limits.
        Exception: Any exception that Pillow raises on a broken file.
    """
    from PIL import Image

    with Image.open(path, formats=IMAGE_FORMATS) as image:
        # A phone's JPEG may contain a second image, such as a depth map, which is not a frame.
        count = getattr(image, "n_frames", 1) if image.format in ("GIF", "WEBP", "PNG") else 1
        limits.check(path, height=image.height, width=image.width, frames=count)
        text = image.info.get("comment") if image.format == "GIF" else image.getexif().get(0x010E)
        metadata, info = unpack_metadata(text)
        frames, ends = [], [0.0]
        for index in range(count):
            image.seek(index)
            frames.append(_upright_rgb(image))
            # Browsers show a frame with a duration of at most 10 ms for 100 ms.
            milliseconds = float(image.info.get("duration") or 0)
            if count == 1 and milliseconds == 0 and info is not None and info.frames is not None:
                # The webp encoder writes equal frames as a still image without a duration.
                milliseconds = 1000 * info.frames / info.fps
            ends.append(ends[-1] + (milliseconds if milliseconds > 10 else 100.0) / 1000)
            limits.check(path, height=image.height, width=image.width, frames=index + 1, seconds=ends[-1])
    if count == 1 and (info is None or info.frames == 1):
        return build_clip(path, frames, np.zeros(1), 1.0 if info is None else info.fps, metadata)
    times, fps = np.array(ends[:-1]), count / ends[-1]
    if info is not None and info.frames is not None:
        shown = round(ends[-1] * info.fps)
        if shown < info.frames and path.read_bytes()[-1:] != b";":
            raise ClipError(f"must be whole, got {shown} of {info.frames} declared frames from {str(path)!r}")
        if shown == info.frames:
            # Encoders merge equal frames and round times; the info restores both.
            limits.check(path, height=info.height, width=info.width, frames=shown)
            middles = (np.arange(shown) + 0.5) / info.fps
            frames = [frames[index] for index in np.searchsorted(times, middles, side="right") - 1]
            times, fps = np.arange(shown) / info.fps, info.fps
    first = (
        int(np.searchsorted(times, times[-1] + 1 / fps - kept_seconds - ROUNDING)) if math.isfinite(kept_seconds) else 0
    )
    first = min(first, len(frames) - 1)
    return build_clip(path, frames[first:], times[first:], fps, metadata)


def _upright_rgb(image: "Image.Image") -> np.ndarray:
    """Return an image as (H, W, 3) RGB, upright, and on black where it is transparent."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
        upright = Image.alpha_composite(black, upright)
    return np.asarray(upright.convert("RGB"))


def read_folder(path: Path, limits: ClipLimits, kept_seconds: float) -> Clip:
    """Read a folder of PNGs that reelm wrote.

    Args:
        path: The folder.
        limits: The limits on its size.
        kept_seconds: The seconds at the end of the clip to keep.

    Raises:
        ClipError: A picture or the settings are missing or those of another clip, or the clip exceeds the limits.
        Exception: Any exception that Pillow raises on a broken picture.
    """
    from PIL import Image

    names = sorted(path.glob("frame_*.png"))
    if not names:
        raise ClipError(f"a folder must hold PNGs named frame_*.png, got none in {str(path)!r}")
    settings = path / "settings.json"
    metadata, info = unpack_metadata(settings.read_text(encoding="utf-8") if settings.is_file() else None)
    if info is None or info.frames is None:
        raise ClipError(f"a folder of PNGs must hold reelm's settings.json, got none or another in {str(path)!r}")
    if len(names) != info.frames:
        raise ClipError(f"must be whole, got {len(names)} of {info.frames} declared frames from {str(path)!r}")
    names = names[-min(len(names), max(1, round(min(kept_seconds, 1e9) * info.fps))) :]
    seconds = len(names) / info.fps
    limits.check(path, height=info.height, width=info.width, frames=len(names), seconds=seconds)

    def images() -> Iterator[np.ndarray]:
        for name in names:
            with Image.open(name, formats=("PNG",)) as image:
                if image.size != (info.width, info.height):
                    raise ClipError(f"must be {info.width}x{info.height}, got {image.size} in {str(name)!r}")
                yield _upright_rgb(image)

    return build_clip(path, images(), np.arange(len(names)) / info.fps, info.fps, metadata)
