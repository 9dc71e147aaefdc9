"""Reading of folders of pictures: those that reelm writes, and any others.

    clip = read_folder(Path("frames"), limits, kept_seconds=math.inf, fps=24.0)

The pictures have any names, any format of images.py and one size. They are shown in natural order: frame2.png comes
before frame10.png.
"""

import os
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..core.errors import ClipError
from ..core.json_values import Json
from .clip import Clip, ClipInfo, ClipLimits, build_clip, unpack_metadata
from .images import ANIMATED, image_format, read_image

# The rate of a folder that does not say its own, unless the caller gives one.
FOLDER_FPS = 24.0
# The names of images: a file of such a name must be one.
IMAGES = ".gif .webp .png .apng .jpg .jpeg .jpe .jfif .bmp .tif .tiff .avif .jp2 .j2k .ppm .pgm .pbm .pnm .pfm .ico"
IMAGE_SUFFIXES = frozenset(IMAGES.split())
OUR_FRAME = re.compile(r"frame_(\d+)\.png")
# Fewer numbered pictures are more likely stills than a clip.
LEAST_FRAMES = 8
DIGITS = re.compile(r"(\d+)")


def read_folder(path: Path, limits: ClipLimits, kept_seconds: float, fps: float) -> Clip:
    """Read a folder of pictures.

    Notes of the clip say how many pictures are missing by their numbers, or unreadable and left out.

    Args:
        path: The folder.
        limits: The limits on its size.
        kept_seconds: The seconds at the end of the clip to keep.
        fps: The frames per second of a folder without the settings.json that reelm writes.

    Raises:
        ClipError: There is no readable picture, one has another size or several frames, the names are those of several
            series, or the clip exceeds the limits.
    """
    metadata, info = _settings(path)
    notes: list[str] = []
    if info is not None and info.frames is not None:
        numbers = {int(found[1]): path / found[0] for found in map(OUR_FRAME.fullmatch, os.listdir(path)) if found}
        names, fps = [numbers[number] for number in sorted(numbers)], info.fps
        starts = np.array(sorted(numbers)) / fps
        if len(names) < info.frames:
            notes.append(f"{len(names)} of {info.frames} pictures are there, the others are missing")
    else:
        names = find_pictures(path)
        starts = np.arange(len(names)) / fps
        if len(names) > 1:
            notes.append(f"{len(names)} pictures at {fps:g} frames per second: the folder does not say its rate")
        notes += _check_series(path, names)
    first = max(0, len(names) - max(1, round(min(kept_seconds, 1e9) * fps)))
    return _read_pictures(path, list(zip(starts.tolist(), names, strict=True))[first:], fps, limits, metadata, notes)


def find_pictures(path: Path) -> list[Path]:
    """Return the pictures in a folder, by first bytes or suffix, in natural order and without hidden files."""
    files = [file for file in path.iterdir() if file.name[0] != "." and file.is_file()]
    pictures = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES or _is_image(file)]
    return sorted(pictures, key=lambda file: (_parts(file.name.lower()), file.name))


def is_sequence(pictures: list[Path]) -> bool:
    """Return whether pictures are the frames of one clip rather than stills.

    They are if there are at least 8 of one format and size, whose names differ in one number alone, which counts up by
    one without a gap.
    """
    numbers = _numbers([picture.name for picture in pictures])
    if numbers is None or len(numbers) < LEAST_FRAMES or len({picture.suffix for picture in pictures}) > 1:
        return False
    counts_up = sorted(numbers) == list(range(min(numbers), min(numbers) + len(numbers)))
    if not counts_up:
        return False
    size = _size(pictures[0])
    return size is not None and all(_size(picture) == size for picture in pictures)


def _size(picture: Path) -> tuple[int, int] | None:
    """Return the width and the height of a still as its header has them, or None for any other file."""
    from PIL import Image

    # A broken file raises many types of exceptions.
    try:
        with Image.open(picture, formats=(image_format(picture) or "",)) as image:
            animated = image.format in ("PNG", *ANIMATED) and getattr(image, "is_animated", False)
            return None if animated else image.size
    except Exception:
        return None


def _settings(path: Path) -> tuple[Json, ClipInfo | None]:
    settings = path / "settings.json"
    return unpack_metadata(settings.read_text(encoding="utf-8", errors="replace") if settings.is_file() else None)


def _is_image(file: Path) -> bool:
    try:
        return image_format(file) is not None
    except ClipError:  # an image of a format that is not read, which is said when it is its turn
        return True


def _parts(name: str) -> list[str | int]:
    """Split a name into its texts and its numbers, which alternate."""
    return [int(part) if index % 2 else part for index, part in enumerate(DIGITS.split(name))]


def _numbers(names: list[str]) -> list[int] | None:
    """Return the one number in which these names differ, of each; None where they differ in more or something else."""
    parts = [_parts(Path(name).stem) for name in names]
    if len({DIGITS.sub("#", Path(name).stem) for name in names}) != 1:
        return None
    varying = [index for index, values in enumerate(zip(*parts, strict=True)) if len(set(values)) > 1]
    if len(varying) != 1:
        return None
    return [number for part in parts if isinstance(number := part[varying[0]], int)]


def _check_series(path: Path, names: list[Path]) -> Iterator[str]:
    """Yield a note about pictures that are missing by their numbers.

    Raises:
        ClipError: The names are those of several series, so that their natural order would mix these.
    """
    seen: dict[tuple[str, tuple[str | int, ...]], str] = {}
    series: dict[str, list[str]] = {}
    for name in names:
        pattern = DIGITS.sub("#", name.stem)
        series.setdefault(pattern, []).append(name.name)
        other = seen.setdefault((pattern, tuple(_parts(name.stem)[1::2])), name.name)
        if other != name.name:
            raise ClipError(f"must hold one picture of each number, got {other!r} and {name.name!r} in {str(path)!r}")
    if len(series) > 1 and max(map(len, series.values())) > 1:
        one, two = list(series.values())[:2]
        raise ClipError(f"must hold one series of pictures, got {one[0]!r} and {two[0]!r} in {str(path)!r}")
    numbers = _numbers([name.name for name in names])
    if numbers is None:
        return
    steps = np.diff(numbers)
    gaps = steps // steps.min() - 1
    if gaps.any():
        before = names[int(gaps.nonzero()[0][0])].name
        yield f"missing by their numbers: {gaps.sum()} pictures, the first after {before!r}"


def _read_pictures(
    path: Path,
    pictures: list[tuple[float, Path]],
    fps: float,
    limits: ClipLimits,
    metadata: Json,
    notes: list[str],
) -> Clip:
    """Read pictures, each with the second from which it is shown, and leave out those that are unreadable."""
    frames: deque[np.ndarray] = deque()
    starts: list[float] = []
    remarks: dict[str, None] = {}
    broken: list[tuple[Path, Exception]] = []
    first: Path | None = None
    for start, name in pictures:
        try:
            picture = read_image(name, limits, kept_seconds=1e9)
        # Pillow raises many types of exceptions on broken files.
        except Exception as error:
            broken.append((name, error))
            continue
        frame = picture.frames_THW3.numpy()
        remarks |= dict.fromkeys(picture.notes)
        if len(frame) > 1:
            raise ClipError(f"must hold stills, got an animation of {len(frame)} frames in {str(name)!r}")
        first = first or name
        if frames and frame[0].shape != frames[0].shape:
            (height, width, _), (other_height, other_width, _) = frames[0].shape, frame[0].shape
            rule = f"must hold pictures of one size, {width}x{height} as in {first.name!r}"
            raise ClipError(f"{rule}, got {other_width}x{other_height} in {str(name)!r}")
        frames.append(frame[0])
        starts.append(start)
        limits.check(
            path, height=frame.shape[1], width=frame.shape[2], frames=len(pictures), seconds=len(pictures) / fps
        )
    if not frames:
        if broken:
            raise broken[0][1]
        raise ClipError(f"a folder must hold pictures, got none in {str(path)!r}")
    notes += remarks
    if broken:
        share = f"{len(broken)} of {len(pictures)} pictures"
        notes.append(f"left out because they cannot be read: {share}, the first is {broken[0][0].name!r}")

    def drained() -> Iterator[np.ndarray]:
        while frames:  # each picture is freed once it is copied
            yield frames.popleft()

    return build_clip(path, drained(), np.array([*starts, starts[-1] + 1 / fps]), fps, metadata, notes)
