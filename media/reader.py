"""Reading of clips: any video file, gif, webp, still image, or a folder of PNGs that reelm wrote.

    clip = read_clip("holiday.mp4")                     # clip.frames_THW3 uint8, clip.fps
    tail = read_clip("holiday.mp4", last_seconds=2)     # the end of a long clip, in little memory

Colour tags and rotation are applied (the transfer curve of HDR video is not). A file that is truncated, broken or
larger than the limits raises a `ClipError`, and any exception of a decoder is converted to one.
"""

import contextlib
import math
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..core.errors import ClipError, require
from ..core.files import as_path
from ..core.json_values import Json
from .clip import DEFAULT_LIMITS, Clip, ClipLimits, unpack_metadata
from .frame_decoder import open_video

if TYPE_CHECKING:
    from av import VideoFrame
    from PIL import Image

IMAGE_FORMATS = ("GIF", "WEBP", "PNG", "JPEG", "BMP")
# Seconds of the coarsest clock tick of video containers.
ROUNDING = 1e-3


def read_clip(
    path: str | Path, *, limits: ClipLimits = DEFAULT_LIMITS, last_seconds: float | None = None, argument: str = "clip"
) -> Clip:
    """Decode the clip at `path`; see `Clip` for shapes and units.

    Args:
        path: A video file, gif, webp, still image (a clip of one frame), or a folder of PNGs written by reelm.
        limits: The limits on the size of the file, checked against its header first.
        last_seconds: The seconds at the end of the clip to keep; by default all.
        argument: The name of the clip in error messages.

    Raises:
        ClipError: There is no such file, it has no video, is truncated or broken, or exceeds the limits. The message
            names the file.
    """
    path = as_path(path, argument)
    kept_seconds = math.inf if last_seconds is None else last_seconds
    require(kept_seconds > 0, "last_seconds", "must be above 0", last_seconds)
    with reading(path, argument):
        if path.is_dir():
            return _read_folder(path, limits, kept_seconds)
        return (_read_video if is_video(path) else _read_image)(path, limits, kept_seconds)


def is_video(path: Path) -> bool:
    """Return whether `path` is a file that is not an image, judged by its first bytes and not by its name.

    Raises:
        ClipError: There is no such file, or it is empty.
    """
    if path.is_dir():
        return False
    if not path.is_file():
        raise ClipError(f"must be an existing file or folder, got {str(path)!r}")
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise ClipError(f"must not be empty, got {str(path)!r}")
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return not (is_webp or head.startswith((b"GIF8", b"\x89PNG\r\n", b"\xff\xd8\xff", b"BM")))


@contextlib.contextmanager
def reading(path: Path, argument: str = "clip") -> Iterator[None]:
    """Convert any exception raised in this context to a `ClipError` that names the argument and the file.

    The functions of media/ that are called in this context raise a `ClipError` with the rule and the file alone; the
    name of the argument is put before them here. The context must not be nested.
    """
    try:
        yield
    except ClipError as error:
        raise ClipError(f"{argument}: {error}") from error
    # Decoders raise many types of exceptions on broken files (UnicodeDecodeError, SyntaxError, struct.error, ...).
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise ClipError(f"{argument}: must be a readable video or image, got {str(path)!r} ({reason})") from error


def _build(path: Path, frames: Iterable[np.ndarray], times: np.ndarray, fps: float, metadata: Json) -> Clip:
    """Stack `frames` (each (H, W, 3)), and drop the times of a clip whose frame rate is constant."""
    frames_THW3: np.ndarray | None = None
    for index, frame in enumerate(frames):
        if frames_THW3 is None:
            frames_THW3 = np.empty((len(times), *frame.shape), np.uint8)
        if frame.shape != frames_THW3.shape[1:]:
            raise ClipError(f"must have frames of one size, got {frame.shape} in {str(path)!r}")
        frames_THW3[index] = frame
    if frames_THW3 is None:
        raise ClipError(f"must have at least one frame, got 0 in {str(path)!r}")
    times = np.maximum.accumulate(times - times[0])
    steady = np.abs(times - np.arange(len(times)) / fps).max() <= max(0.25 / fps, ROUNDING)
    return Clip(torch.from_numpy(frames_THW3), fps, metadata, None if steady else times)


# ---- video files: PyAV


def _read_video(path: Path, limits: ClipLimits, kept_seconds: float) -> Clip:
    with open_video(path) as video:
        seconds = video.seconds if math.isinf(kept_seconds) else 0.0
        frames = min(video.declared or video.seconds * video.fps, kept_seconds * video.fps)
        limits.check(path, height=video.height, width=video.width, frames=frames, seconds=seconds)
        kept: deque[tuple[float, VideoFrame]] = deque()
        for count, (time, frame) in enumerate(video.decode(limits.max_pixels), 1):
            kept.append((time, frame))
            while kept[0][0] <= time + 1 / video.fps - kept_seconds - ROUNDING and len(kept) > 1:
                kept.popleft()
            seconds = count / video.fps if math.isinf(kept_seconds) else 0.0
            limits.check(path, height=frame.height, width=frame.width, frames=len(kept), seconds=seconds)
        times = np.array([time for time, _ in kept])

        def images() -> Iterator[np.ndarray]:
            while kept:  # each decoded frame is freed once it is converted
                yield video.rgb(kept.popleft()[1])

        return _build(path, images(), times, video.fps, video.metadata)


# ---- images, animated ones and folders of them: Pillow


def _read_image(path: Path, limits: ClipLimits, kept_seconds: float) -> Clip:
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
        return _build(path, frames, np.zeros(1), 1.0 if info is None else info.fps, metadata)
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
    return _build(path, frames[first:], times[first:], fps, metadata)


def _upright_rgb(image: "Image.Image") -> np.ndarray:
    """Return an image as (H, W, 3) RGB, upright, and on black where it is transparent."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
        upright = Image.alpha_composite(black, upright)
    return np.asarray(upright.convert("RGB"))


def _read_folder(path: Path, limits: ClipLimits, kept_seconds: float) -> Clip:
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

    return _build(path, images(), np.arange(len(names)) / info.fps, info.fps, metadata)
