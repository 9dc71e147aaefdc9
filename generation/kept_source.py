"""Continue a clip from elsewhere and keep it in the result: the given part at its own size and rate, with its sound.

source = KeptSource("holiday.mp4", fps=generator.fps)
source.check("longer.mp4")                                  # refuses what cannot be written, before it is computed
video = generator.continue_clip(source.clip, fit=source.fit, seconds=4)
source.extend(video).save("longer.mp4")
"""

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..core.errors import require
from ..core.files import as_path
from ..core.json_values import Json
from ..core.progress import note
from ..media.extending import ExtendedFrames
from ..media.fitting import FITS, Fit
from ..media.sound import find_sound
from ..media.writer import check_output, write_parts
from .video import MAX_RATE_ERROR, Video, video_metadata


class KeptSource:
    """A clip in a file that is kept in its continuation.

    Attributes:
        clip: The clip, to be continued.
        sound: Its sound, or None.
        fit: How it is fitted to the model's size.
    """

    def __init__(self, path: str | Path, *, fps: float, fit: Fit | None = None) -> None:
        """Read the clip.

        Args:
            path: A video, an image, an animation or a folder of pictures.
            fps: The frames per second of a still or a folder of pictures: those of the model.
            fit: How the clip is fitted to the model's size; "pad" by default, so that the whole picture is continued.
                With "crop" the result is the part that the model sees.

        Raises:
            ReelmError: It cannot be read, or is a session, which has no pictures.
        """
        path = as_path(path, "clip")
        rule = "must be given with a clip, which has pictures to keep; decode the session first"
        require(path.suffix != ".safetensors", "keep_source", rule, str(path))
        self.fit: Fit = "pad" if fit is None else fit
        require(self.fit in FITS, "fit", f"must be one of {FITS}", fit)
        self._cut = False
        self.clip, self.sound = Video.load(path, folder_fps=fps), find_sound(path)
        if self.sound is not None:
            self.sound = self.sound.until(self.clip.seconds)
            if self.sound.streams > 1:
                note(f"{path.name}: of its {self.sound.streams} sounds, the one that a player plays is kept")
        if len(self.clip.frames) == 1:
            self.clip = dataclasses.replace(self.clip, fps=fps)

    def check(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Check that the continuation can be written to `path`, with the sound.

        Raises:
            ReelmError: It cannot, or something there would be lost.
        """
        suffix = check_output(path, overwrite=overwrite, inputs=self.clip.inputs, fps=self.clip.fps).suffix.lower()
        if self.sound is not None:
            self.sound.check(suffix)

    def extend(self, video: Video) -> "ExtendedVideo":
        """Return the clip with the new frames of its continuation, which `continue_clip` has made of it."""
        extended = ExtendedVideo(self, video)
        (height, width), (_, kept_height, kept_width) = self.clip.frames.shape[1:3], extended.shape
        if (height, width) != (kept_height, kept_width) and not self._cut:
            self._cut = True  # said once for all continuations
            note(f"{kept_width}x{kept_height} of {width}x{height} are kept, the part that the model sees")
        return extended


@dataclass(frozen=True, eq=False)
class ExtendedVideo:
    """A clip with its continuation, at the clip's own size and rate and with its sound.

    The new frames are scaled with Pillow's Lanczos filter, and after the sound of the clip there is silence. A silent
    clip of the model's own size and rate gives what `continue_clip` gives, with its tokens.

    Attributes:
        source: The clip.
        video: The continuation at the model's size and rate.
    """

    source: KeptSource
    video: Video

    @property
    def fps(self) -> float:
        """The frames per second."""
        return self.video.fps if self._is_unchanged else self.source.clip.fps

    @property
    def shape(self) -> tuple[int, int, int]:
        """The numbers of frames, rows and columns (T, H, W)."""
        count, height, width = self.video.frames.shape[:3] if self._is_unchanged else self._frames.shape
        return count, height, width

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return self.shape[0] / self.fps

    @property
    def prompt(self) -> str:
        """The prompt at its end."""
        return self.video.prompt

    @property
    def seed(self) -> int | None:
        """The seed of the continuation's noise."""
        return self.video.seed

    @property
    def settings(self) -> Json:
        """The model and the sampling options of the continuation."""
        return self.video.settings

    @property
    def stats(self) -> dict[str, Any]:
        """The statistics of the continuation; `new_frames` counts those of this clip."""
        if self._is_unchanged:
            return self.video.stats
        return {**self.video.stats, "new_frames": self.shape[0] - len(self.source.clip.frames)}

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the clip atomically, with its sound, and return the path; see `Video.save`.

        Raises:
            ReelmError: The path cannot be written, its format cannot hold the sound, or a file there would be lost.
        """
        self.source.check(path, overwrite=overwrite)
        video, parts = self.video, iter([self.video.frames])
        if not self._is_unchanged:
            video, parts = dataclasses.replace(video, tokens=None, segments={}, fingerprint=None), self._frames.parts()
        sound = self.source.sound
        return write_parts(
            path, parts, self.shape, self.fps, metadata=video_metadata(video), sound=sound, overwrite=overwrite,
            inputs=self.source.clip.inputs,
        )  # fmt: skip

    @property
    def _is_unchanged(self) -> bool:
        """Whether the clip has the size and the rate of its continuation."""
        clip, video = self.source.clip, self.video
        same_rate = math.isclose(clip.fps, video.fps, rel_tol=MAX_RATE_ERROR)
        return same_rate and clip.frames.shape[1:] == video.frames.shape[1:]

    @cached_property
    def _frames(self) -> ExtendedFrames:
        clip, video = self.source.clip, self.video
        new_THW3 = video.frames[len(video.frames) - video.stats["new_frames"] :]
        return ExtendedFrames(clip.frames, clip.fps, new_THW3, video.fps, self.source.fit)
