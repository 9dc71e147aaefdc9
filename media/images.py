"""Reading of stills and animated images by Pillow.

    image_format(Path("cat.gif"))                                            # "GIF", judged by its first bytes
    clip = read_image(Path("cat.gif"), limits, kept_seconds=math.inf)

A picture is upright, in sRGB, and on black where it is transparent (see colours.py). Of a file of several pictures
that are no animation (a TIFF of pages, a phone's JPEG with a depth map), the first is read.
"""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.errors import ClipError
from .apng import frames_in_apng, read_apng
from .clip import ROUNDING, Clip, ClipLimits, build_clip, unpack_metadata
from .colours import ORIENTATION, exif_tag, to_srgb
from .gif import GifFile
from .timeline import nominal_rate

if TYPE_CHECKING:
    from PIL import Image

# The first bytes of the formats that are read, by Pillow's names.
FIRST_BYTES = {
    "GIF": (b"GIF8",),
    "PNG": (b"\x89PNG\r\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "JPEG2000": (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    "PPM": tuple(
        b"P" + digit + space
        for digit in (b"1", b"2", b"3", b"4", b"5", b"6", b"f")
        for space in (b" ", b"\t", b"\r", b"\n", b"#")
    ),
    "ICO": (b"\0\0\1\0",),
}
# Those of formats that people have and Pillow does not read, by the names that people know.
UNREAD_BYTES = {
    "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"),
    "OpenEXR": (b"\x76\x2f\x31\x01",),
    "Photoshop": (b"8BPS",),
}
# An AVIF or HEIC begins like an mp4, and declares what it is by one of these brands.
AVIF_BRANDS = {b"avif", b"avis"}
HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
MAY_BE_CUT = "the file may be cut: its end is not marked"
ANIMATED = ("GIF", "WEBP", "AVIF")
IMAGE_DESCRIPTION, REDUCED_IMAGE, DNG_VERSION = 0x010E, 0x00FE, 0xC612


def image_format(path: Path) -> str | None:
    """Return Pillow's name of the format of an image, judged by its first bytes, or None for any other file.

    Raises:
        ClipError: It is an image of a format that is not read.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    unread = next((name for name, starts in UNREAD_BYTES.items() if head.startswith(starts)), None)
    if head[4:8] == b"ftyp":
        brands = head[8 : min(len(head), int.from_bytes(head[:4]))]
        major, all_brands = brands[:4], {brands[start : start + 4] for start in range(0, len(brands), 4)}
        if major in AVIF_BRANDS or (major in HEIC_BRANDS and all_brands & AVIF_BRANDS):
            return "AVIF"
        unread = "HEIC" if major in HEIC_BRANDS else None
    if unread is not None:
        raise ClipError(f"must be of a format that is read (save it as PNG or JPEG), got {unread} in {str(path)!r}")
    return next((name for name, starts in FIRST_BYTES.items() if head.startswith(starts)), None)


def read_image(path: Path, limits: ClipLimits, kept_seconds: float) -> Clip:
    """Read an image (a clip of one frame) or an animated image.

    The frames of an animation that is cut or damaged end before the damage, and a note says how many they are.

    Args:
        path: The file.
        limits: The limits on its size.
        kept_seconds: The seconds at the end of the clip to keep.

    Raises:
        ClipError: No frame is whole, the format is not read, or the file exceeds the limits.
        Exception: Any exception that Pillow raises on a broken file.
    """
    from PIL import Image

    kind = image_format(path)
    if kind is None:
        raise ClipError(f"must be an image, got {str(path)!r}")
    with Image.open(path, formats=(kind,)) as image:
        count, frames, seconds, notes = _decode(image, path, limits)
        # Pillow loads a PNG to find its EXIF, and what the file says of transparency is only there before.
        text = image.info.get("comment") if kind == "GIF" else exif_tag(image, IMAGE_DESCRIPTION)
    metadata, info = unpack_metadata(text)
    if count == 1 and (info is None or info.frames == 1):
        return build_clip(path, frames, np.zeros(2), 1.0 if info is None else info.fps, metadata, notes)
    if seconds == [0.0] and info is not None and info.frames is not None:
        # The webp encoder writes equal frames as a still image without a duration.
        seconds = [info.frames / info.fps]
    ends = [0.0, *itertools.accumulate(map(_shown, seconds))]
    times, fps = np.array(ends), round(float(nominal_rate(ends, ()) or len(frames) / ends[-1]), 6)
    if info is not None and info.frames is not None:
        shown = round(ends[-1] * info.fps)
        cut = shown < info.frames and bool(notes)
        if cut:
            notes = [f"{shown} of {info.frames} frames are read, the others are missing"]
        if cut or shown == info.frames:
            # Encoders merge equal frames and round times; the info restores both.
            limits.check(path, height=info.height, width=info.width, frames=shown)
            middles = (np.arange(shown) + 0.5) / info.fps
            frames = [frames[index] for index in np.searchsorted(times[:-1], middles, side="right") - 1]
            times, fps = np.arange(shown + 1) / info.fps, info.fps
    first = int(np.searchsorted(times, times[-1] - kept_seconds - ROUNDING)) if math.isfinite(kept_seconds) else 0
    first = min(first, len(frames) - 1)
    return build_clip(path, frames[first:], times[first:], fps, metadata, notes)


def _decode(
    image: "Image.Image", path: Path, limits: ClipLimits
) -> tuple[int, list[np.ndarray], list[float], list[str]]:
    """Return the declared number of frames of an open file, the frames, their durations in seconds, and notes."""
    limits.check(path, height=image.height, width=image.width, frames=1)
    count, pictures, remarks = _animation(image, path, limits)
    limits.check(path, height=image.height, width=image.width, frames=count)
    frames: list[np.ndarray] = []
    durations: list[float] = []
    # A dictionary keeps the order of the notes, and each of them once.
    notes = dict.fromkeys(remarks)
    try:
        for picture, seconds in pictures:
            frame, remark = to_srgb(picture)
            frames.append(frame)
            durations.append(seconds)
            notes |= {} if remark is None else {remark: None}
            end = sum(map(_shown, durations)) if count > 1 else 0.0
            limits.check(path, height=image.height, width=image.width, frames=len(frames), seconds=end)
    # Pillow raises many types of exceptions on broken frames.
    except Exception as error:
        if isinstance(error, ClipError):
            raise error if str(path) in str(error) else ClipError(f"{error} in {str(path)!r}") from error
        if not frames:
            raise
    if not frames:
        raise ClipError(f"must have a whole frame, got 0 of {count} in {str(path)!r}")
    if len(frames) < count:
        notes.pop(MAY_BE_CUT, None)
        notes[f"{len(frames)} of {count} frames are read, the others are missing or damaged"] = None
    return count, frames, durations, list(notes)


def _shown(seconds: float) -> float:
    """Return how long browsers show a frame: 100 ms if its duration is at most 10 ms."""
    return seconds if seconds > 0.01 else 0.1


def _animation(
    image: "Image.Image", path: Path, limits: ClipLimits
) -> tuple[int, Iterator[tuple["Image.Image", float]], list[str]]:
    """Return the number of frames of an open image, each as a picture with its duration in seconds, and notes."""
    if image.format == "GIF":
        gif = GifFile(path.read_bytes())
        return (
            gif.count,
            gif.read(limits.max_pixels),
            [MAY_BE_CUT] if gif.is_cut else [],
        )
    if image.format == "PNG" and getattr(image, "is_animated", False):
        data = path.read_bytes()
        return frames_in_apng(data), _apng(image, data), []
    if image.format in ANIMATED:
        count = getattr(image, "n_frames", 1)
        return count, _frames(image, count), []
    return 1, iter([(image, 0.0)]), list(_pages(image, path))


def _apng(image: "Image.Image", data: bytes) -> Iterator[tuple["Image.Image", float]]:
    exif_tag(image, ORIENTATION)  # a PNG's EXIF may stand behind its pixels, and is looked for only on demand
    for picture, seconds in read_apng(data):
        for key in ("exif", "icc_profile"):
            if key in image.info:
                picture.info[key] = image.info[key]
        yield picture, seconds


def _frames(image: "Image.Image", count: int) -> Iterator[tuple["Image.Image", float]]:
    for index in range(count):
        image.seek(index)
        image.load()  # which sets the duration
        yield image, float(image.info.get("duration") or 0) / 1000


def _pages(image: "Image.Image", path: Path) -> Iterator[str]:
    """Yield a note about the pages of a TIFF behind the first one.

    Raises:
        ClipError: The file is a camera's raw picture, whose first page is a thumbnail.
    """
    if image.format != "TIFF":
        return
    tags = getattr(image, "tag_v2", {})
    if DNG_VERSION in tags or tags.get(REDUCED_IMAGE) == 1:
        raise ClipError(f"must be a picture (save it as PNG or JPEG), got a camera's raw file {str(path)!r}")
    count = getattr(image, "n_frames", 1)
    if count > 1:
        yield f"the first of {count} pages is read: a TIFF does not say when its pages are shown"
