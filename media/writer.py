"""Writing of clips: mp4, lossless mkv or PNGs, gif and webp; as a whole, or frame by frame while they are generated.

    write_clip("ball.mp4", frames_THW3, fps=8, metadata={"prompt": "a red ball"})
    with ClipWriter("long.mp4", fps=8) as writer:       # long.partial.mp4 can be played meanwhile, even after a kill
        for frames_THW3 in generator.stream(...):
            writer.write(frames_THW3)                   # long.mp4 is written at the end

The suffix selects the format: `.mp4` is H.264, 4:2:0, converted to and tagged as BT.709, with the index first; `.mkv`
is ffv1 with exact RGB; `.gif`; `.webp`; a path without a suffix, or with a slash at its end, is a folder of PNGs and a
settings.json.

Video is encoded by `frame_encoder.py`, images by `animation_writer.py`.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..core.errors import require
from ..core.files import as_path, atomic_path, check_replaceable, check_writable
from ..core.free_names import free_path
from ..core.plain_values import to_python
from .animation_writer import write_animation, write_picture_folder
from .clip import ClipInfo, pack_metadata
from .frame_encoder import VIDEO, VideoEncoder, encode_video, remux, writing
from .own_files import is_own_clip

if TYPE_CHECKING:
    from .sound import Sound

# Above the limits of gif and webp a frame lasts 10 ms or less, which browsers show for 100 ms; a gif counts durations
# in hundredths of a second.
MAX_FPS = {".mp4": 1000.0, ".mkv": 1000.0, "": 1000.0, ".gif": 50.0, ".webp": 90.0}


def check_output(
    path: str | Path, *, overwrite: bool = False, inputs: Sequence[object] = (), fps: float | None = None
) -> Path:
    """Check that a clip can be written at `path`, before any work is done, and return it as a `Path`.

    Args:
        path: The file or folder; its suffix is the format.
        overwrite: Whether a file that is not a clip of reelm may be replaced; see `check_replaceable`.
        inputs: What the clip is made from; those that are paths are never replaced.
        fps: The frames per second, where they are known already.

    Raises:
        ReelmError: The suffix is unknown, the rate is beyond the limits of the format, the folder is missing or not
            writable, or something there would be lost.
    """
    suffix, name = _suffix(path), as_path(path, "output").name.lower()
    require(name not in (MAX_FPS.keys() - {""}), "output", "must have a name before its suffix", str(path))
    rule = "must end in .mp4, .mkv, .gif, .webp, or in no suffix for a folder of PNGs"
    require(suffix in MAX_FPS, "output", rule, str(path))
    if fps is not None:
        _read_fps(fps, suffix)
    path = check_writable(path)
    if suffix:
        require(not path.is_dir(), "output", "must not be a folder", str(path))
    elif path.exists():
        require(path.is_dir(), "output", "must be a new or empty folder, or one that reelm wrote", str(path))
    check_replaceable(path, is_own_clip, overwrite=overwrite, inputs=inputs)
    return path


def write_clip(
    path: str | Path,
    frames_THW3: np.ndarray | torch.Tensor,
    fps: float,
    *,
    metadata: Mapping[str, object] | None = None,
    overwrite: bool = False,
    inputs: Sequence[object] = (),
) -> Path:
    """Write RGB frames atomically: after a failure or a kill, an old file at `path` is unchanged.

    Args:
        path: The file or folder; its suffix is the format.
        frames_THW3: The frames, uint8.
        fps: The frames per second.
        metadata: A dict of JSON values, which `read_clip` returns.
        overwrite: Whether a file that is not a clip of reelm may be replaced.
        inputs: What the clip is made from; those that are paths are never replaced.

    Returns:
        The path.

    Raises:
        ReelmError: An argument is invalid, a file would be lost, or the disk is full or refuses to write.
    """
    frames = _checked_frames(frames_THW3)
    options: dict[str, Any] = {"metadata": metadata, "overwrite": overwrite, "inputs": inputs}
    return write_parts(path, [frames], frames.shape[:3], fps, **options)


def write_parts(
    path: str | Path,
    parts: Iterable[np.ndarray],
    shape: tuple[int, ...],
    fps: float,
    *,
    metadata: Mapping[str, object] | None = None,
    sound: "Sound | None" = None,
    overwrite: bool = False,
    inputs: Sequence[object] = (),
) -> Path:
    """Do what `write_clip` does with the parts of a clip, of which a video file needs one at a time in memory.

    Args:
        path, fps, metadata, overwrite, inputs: See `write_clip`.
        parts: The frames (n, H, W, 3), uint8, of each part.
        shape: The number, the rows and the columns of all frames (T, H, W).
        sound: The sound of the clip, which a .mp4 or .mkv can hold.

    Returns:
        The path.

    Raises:
        ReelmError: As `write_clip`.
    """
    suffix = _suffix(path)
    path = check_output(path, overwrite=overwrite, inputs=inputs)
    fps = _read_fps(fps, suffix)
    text = pack_metadata(metadata, ClipInfo(fps, *shape))
    with writing(path):
        if not suffix:
            write_picture_folder(path, _join(parts), text)
            return path
        with atomic_path(path) as temporary:
            if suffix in VIDEO:
                encode_video(temporary, suffix, parts, fps, text, name=path.name, sound=sound)
            else:
                write_animation(temporary, suffix, _join(parts), fps, text)
    return path


def _join(parts: Iterable[np.ndarray]) -> np.ndarray:
    arrays = list(parts)
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


class ClipWriter:
    """A context manager that writes a clip while its frames are generated.

    The file `growing` (`<name>.partial.mp4` or `.mkv`, in the folder of `path`) can be played at any time and survives
    a kill. Closing without an exception copies its packets, without encoding them again, to an ordinary file at `path`
    atomically and removes `growing`; after an exception, `growing` stays with all frames so far, and a file at `path`
    is unchanged. Where a file named like `growing` exists, which may be all that is left of a killed stream, `growing`
    is `<name>.partial-2.mp4`, and so on.

    Attributes:
        path: The file that is written at the end.
        growing: The file that is written meanwhile.
        fps: The frames per second.
        metadata: The metadata of the file at the end; it may be changed until then, for example to add the tokens.
        frames: The number of frames written so far.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        metadata: Mapping[str, object] | None = None,
        *,
        overwrite: bool = False,
        inputs: Sequence[object] = (),
    ) -> None:
        """Check the arguments, which are those of `write_clip`; no file is opened yet."""
        suffix = _suffix(path)
        require(suffix in VIDEO, "output", "must end in .mp4 or .mkv to be written while it grows", str(path))
        self._replacing: dict[str, Any] = {"overwrite": overwrite, "inputs": inputs}
        self.path = check_output(path, **self._replacing)
        self._partial = self.path.with_name(f"{self.path.stem}.partial{suffix}")
        self.growing = free_path(self._partial)
        self.fps, self.metadata, self.frames = _read_fps(fps, suffix), metadata, 0
        self._suffix, self._size, self._encoder = suffix, (1, 1), None
        pack_metadata(metadata, self._info)

    _encoder: VideoEncoder | None

    @property
    def _info(self) -> ClipInfo:
        return ClipInfo(self.fps, self.frames or None, *self._size)

    def __enter__(self) -> "ClipWriter":
        return self

    def write(self, frames_THW3: np.ndarray | torch.Tensor) -> None:
        """Append RGB frames.

        Args:
            frames_THW3: The frames, uint8, of the same size in all calls.

        Raises:
            ReelmError: The frames are invalid, or the disk is full or refuses to write.
        """
        frames = _checked_frames(frames_THW3)
        with writing(self.growing):
            if self._encoder is None:
                self._size = (frames.shape[1], frames.shape[2])
                self.growing = _claim(self._partial)
                text = pack_metadata(self.metadata, self._info)
                try:
                    self._encoder = VideoEncoder(self.growing, self._suffix, self.fps, text, growing=True)
                except BaseException:
                    self.growing.unlink()  # nothing is in it
                    raise
            size = f"must be {self._size} like the frames before"
            require(frames.shape[1:3] == self._size, "frames_THW3", size, frames.shape[1:3])
            self._encoder.write(frames, self.path.name)
            self.frames += len(frames)

    def close(self) -> None:
        """Write the file at `path` and remove `growing`. Without a frame, no file is written."""
        if self._encoder is None:
            return
        encoder, self._encoder = self._encoder, None
        text = pack_metadata(self.metadata, self._info)
        with writing(self.path):
            with contextlib.closing(encoder):
                encoder.finish()
            check_output(self.path, **self._replacing)  # a file may have come there meanwhile
            with atomic_path(self.path) as temporary:
                remux(self.growing, temporary, self._suffix, text)
            self.growing.unlink()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._encoder is not None:
            # The caller's exception is more useful than another one from finishing the file.
            with contextlib.suppress(Exception), contextlib.closing(self._encoder) as encoder:
                encoder.finish()
            self._encoder = None


def _suffix(path: str | Path) -> str:
    return "" if str(path).endswith(("/", os.sep)) else as_path(path, "output").suffix.lower()


def _claim(path: Path) -> Path:
    """Make an empty file at `path`, or at the first free name after it, and return it."""
    while True:
        with contextlib.suppress(FileExistsError):  # another stream of the same name has taken it in between
            free = free_path(path)
            free.touch(exist_ok=False)
            return free


def _read_fps(fps: float, suffix: str) -> float:
    """Return the frames per second as Python's float, within the limits of the format."""
    number = to_python(fps)
    rule = f"must be from 0.01 to {MAX_FPS[suffix]:g} in {suffix or 'a folder of PNGs'}"
    valid = isinstance(number, int | float) and not isinstance(number, bool) and 0.01 <= number <= MAX_FPS[suffix]
    require(valid, "fps", rule, fps)
    return float(number)  # type: ignore[arg-type]  # it is a number by now


def _checked_frames(frames_THW3: Any) -> np.ndarray:
    if isinstance(frames_THW3, torch.Tensor):
        frames_THW3 = frames_THW3.detach().cpu().numpy()
    shape: tuple[int, ...] = tuple(getattr(frames_THW3, "shape", ()))
    require(len(shape) == 4 and shape[-1] == 3, "frames_THW3", "must have shape (T, H, W, 3)", shape or frames_THW3)
    require(min(shape) > 0, "frames_THW3", "must hold at least one frame of one pixel", shape)
    require(frames_THW3.dtype == np.uint8, "frames_THW3", "must be uint8", frames_THW3.dtype)
    return np.asarray(frames_THW3)
