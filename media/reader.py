"""Read a clip: any video file, gif, webp, still image, or a folder of PNGs that reelm wrote.

    clip = read_clip("holiday.mp4")                     # clip.frames_THW3 uint8, clip.fps
    tail = read_clip("holiday.mp4", last_seconds=2)     # enough to continue a long clip, in little memory

Colour tags and rotation are honoured (the transfer curve of HDR video is not). A file that is truncated, broken or
larger than the limits is refused with a `ClipError`, and whatever a decoder raises becomes one too.
"""

import contextlib
import math
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import ClipError, require
from .clip import DEFAULT_LIMITS, Clip, ClipLimits, unpack_metadata
from .frame_decoder import open_video

IMAGE_FORMATS = ("GIF", "WEBP", "PNG", "JPEG", "BMP")
# Seconds: the coarsest tick that a video container counts time in.
ROUNDING = 1e-3


def read_clip(path: str | Path, *, limits: ClipLimits = DEFAULT_LIMITS, last_seconds: float | None = None) -> Clip:
    """Decode the clip at `path`; see `Clip` for shapes and units.

    Args:
        path: a video file, gif, webp, still image (a clip of one frame), or a folder of PNGs written by reelm.
        limits: the size above which a file is refused, from its header where the header says it.
        last_seconds: keep only the frames shown in the last so many seconds.

    Raises:
        ClipError: nothing there, no video in it, truncated, broken, or above the limits. The message names the file.
    """
    path = Path(path)
    wanted = math.inf if last_seconds is None else last_seconds
    require(wanted > 0, "last_seconds", "must be above 0", last_seconds)
    with reading(path):
        if path.is_dir():
            return _read_folder(path, limits, wanted)
        return (_read_video if is_video(path) else _read_image)(path, limits, wanted)


def is_video(path: Path) -> bool:
    """Whether FFmpeg is to read `path`: no folder, and no image by its content (a gif named .mp4 is still a gif).

    Raises:
        ClipError: there is no such file, or it is empty.
    """
    if path.is_dir():
        return False
    if not path.is_file():
        raise ClipError(f"clip: must be an existing file or folder, got {str(path)!r}")
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise ClipError(f"clip: must not be empty, got {str(path)!r}")
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return not (is_webp or head.startswith((b"GIF8", b"\x89PNG\r\n", b"\xff\xd8\xff", b"BM")))


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Word whatever a decoder raises inside as a `ClipError` that names the file."""
    try:
        yield
    except ClipError:
        raise
    # Decoders raise anything on a broken file (UnicodeDecodeError, SyntaxError, struct.error, ...).
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise ClipError(f"clip: must be a readable video or image, got {str(path)!r} ({reason})") from error


def _build(path: Path, frames: Iterable[np.ndarray], times: np.ndarray, fps: float, metadata: dict[str, Any]) -> Clip:
    """Stack `frames` (each (H, W, 3)), and drop the times of a clip whose frame rate is constant."""
    frames_THW3: np.ndarray | None = None
    for index, frame in enumerate(frames):
        if frames_THW3 is None:
            frames_THW3 = np.empty((len(times), *frame.shape), np.uint8)
        if frame.shape != frames_THW3.shape[1:]:
            raise ClipError(f"clip: must have frames of one size, got {frame.shape} in {str(path)!r}")
        frames_THW3[index] = frame
    if frames_THW3 is None:
        raise ClipError(f"clip: must have at least one frame, got 0 in {str(path)!r}")
    times = np.maximum.accumulate(times - times[0])
    steady = np.abs(times - np.arange(len(times)) / fps).max() <= max(0.25 / fps, ROUNDING)
    return Clip(torch.from_numpy(frames_THW3), fps, metadata, None if steady else times)


# ---- video files: PyAV


def _read_video(path: Path, limits: ClipLimits, wanted: float) -> Clip:
    with open_video(path) as video:
        seconds = video.seconds if math.isinf(wanted) else 0.0
        frames = min(video.declared or video.seconds * video.fps, wanted * video.fps)
        limits.check(path, height=video.height, width=video.width, frames=frames, seconds=seconds)
        kept: deque[tuple[float, Any]] = deque()
        for count, (time, frame) in enumerate(video.decode(limits.max_pixels), 1):
            kept.append((time, frame))
            while kept[0][0] <= time + 1 / video.fps - wanted - ROUNDING and len(kept) > 1:
                kept.popleft()
            seconds = count / video.fps if math.isinf(wanted) else 0.0
            limits.check(path, height=frame.height, width=frame.width, frames=len(kept), seconds=seconds)
        times = np.array([time for time, _ in kept])

        def pictures() -> Iterator[np.ndarray]:
            while kept:  # each is freed on the way
                yield video.rgb(kept.popleft()[1])

        return _build(path, pictures(), times, video.fps, video.metadata)


# ---- images, animated ones and folders of them: Pillow


def _read_image(path: Path, limits: ClipLimits, wanted: float) -> Clip:
    from PIL import Image

    with Image.open(path, formats=IMAGE_FORMATS) as image:
        # A phone's JPEG may carry a second picture (a depth map): not a clip.
        count = getattr(image, "n_frames", 1) if image.format in ("GIF", "WEBP", "PNG") else 1
        limits.check(path, height=image.height, width=image.width, frames=count)
        text = image.info.get("comment") if image.format == "GIF" else image.getexif().get(0x010E)
        metadata, layout = unpack_metadata(text)
        frames, ends = [], [0.0]
        for index in range(count):
            image.seek(index)
            frames.append(_upright_rgb(image))
            # Browsers show a frame of at most 10 ms for 100.
            milliseconds = float(image.info.get("duration") or 0)
            if count == 1 and milliseconds == 0 and layout is not None and layout.frames is not None:
                # The encoder of webp makes a still image, without a duration, of equal frames.
                milliseconds = 1000 * layout.frames / layout.fps
            ends.append(ends[-1] + (milliseconds if milliseconds > 10 else 100.0) / 1000)
            limits.check(path, height=image.height, width=image.width, frames=index + 1, seconds=ends[-1])
    if count == 1 and (layout is None or layout.frames == 1):
        return _build(path, frames, np.zeros(1), 1.0 if layout is None else layout.fps, metadata)
    times, fps = np.array(ends[:-1]), count / ends[-1]
    if layout is not None and layout.frames is not None:
        shown = round(ends[-1] * layout.fps)
        if shown < layout.frames and path.read_bytes()[-1:] != b";":
            raise ClipError(f"clip: must be whole, got {shown} of {layout.frames} declared frames from {str(path)!r}")
        if shown == layout.frames:
            # Encoders merge equal frames and round times; the layout gives both back.
            limits.check(path, height=layout.height, width=layout.width, frames=shown)
            middles = (np.arange(shown) + 0.5) / layout.fps
            frames = [frames[index] for index in np.searchsorted(times, middles, side="right") - 1]
            times, fps = np.arange(shown) / layout.fps, layout.fps
    first = int(np.searchsorted(times, times[-1] + 1 / fps - wanted - ROUNDING)) if math.isfinite(wanted) else 0
    first = min(first, len(frames) - 1)
    return _build(path, frames[first:], times[first:], fps, metadata)


def _upright_rgb(image: Any) -> np.ndarray:
    """One picture as (H, W, 3) RGB: upright, and on black where it is transparent."""
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(image)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture)
    return np.asarray(picture.convert("RGB"))


def _read_folder(path: Path, limits: ClipLimits, wanted: float) -> Clip:
    from PIL import Image

    names = sorted(path.glob("frame_*.png"))
    if not names:
        raise ClipError(f"clip: a folder must hold PNGs named frame_*.png, got none in {str(path)!r}")
    settings = path / "settings.json"
    metadata, layout = unpack_metadata(settings.read_text(encoding="utf-8") if settings.is_file() else None)
    if layout is None or layout.frames is None:
        raise ClipError(f"clip: a folder of PNGs must hold reelm's settings.json, got none or another in {str(path)!r}")
    if len(names) != layout.frames:
        raise ClipError(f"clip: must be whole, got {len(names)} of {layout.frames} declared frames from {str(path)!r}")
    names = names[-min(len(names), max(1, round(min(wanted, 1e9) * layout.fps))) :]
    seconds = len(names) / layout.fps
    limits.check(path, height=layout.height, width=layout.width, frames=len(names), seconds=seconds)

    def pictures() -> Iterator[np.ndarray]:
        for name in names:
            with Image.open(name, formats=("PNG",)) as image:
                if image.size != (layout.width, layout.height):
                    raise ClipError(f"clip: must be {layout.width}x{layout.height}, got {image.size} in {str(name)!r}")
                yield _upright_rgb(image)

    return _build(path, pictures(), np.arange(len(names)) / layout.fps, layout.fps, metadata)
