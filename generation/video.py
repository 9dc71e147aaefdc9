"""`Video`: a clip that a generator returns and can continue, with its frames, tokens and the record of its generation.

video = generator.generate("a red ball rolls to the right")
video.save("ball.mp4")                       # the tokens are stored in the file's metadata
video = Video.load("ball.mp4")               # ... and read back, so that the clip is continued from its own tokens
video.to("pil")[0].show()
"""

import base64
import binascii
import dataclasses
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union, overload

import numpy as np
import torch

from .. import __version__
from ..core.errors import require
from ..core.json_values import Json, JsonValue
from ..core.plain_values import to_python, to_tensor
from ..core.progress import note
from ..media.clip import DEFAULT_LIMITS, Clip, ClipLimits
from ..media.fitting import resample_frames
from ..media.picture_folder import FOLDER_FPS
from ..media.reader import read_clip
from ..media.writer import write_clip
from .fingerprint import Fingerprint, Likeness
from .session import SessionState

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_TOKENS = 2**28
MAX_RATE_ERROR = 5e-3  # of a rate; containers round the times of frames

# The results of `Video.to`.
Images: TypeAlias = "list[Image]"
Frames: TypeAlias = Union[np.ndarray, torch.Tensor, "list[Image]"]


@dataclass(eq=False, repr=False)
class Video:
    """A clip and the record of its generation.

    Attributes:
        frames: The frames (T, H, W, 3) uint8 RGB.
        fps: The frames per second.
        tokens: The video tokens (t, h, w) int64, or None where they are not known.
        segments: The tokens (t, *shape) of the other segments of its latent frames, by name; most models have none.
        prompt: The prompt at its end.
        seed: The seed of its noise.
        settings: The model and the sampling options of its generation, as JSON values.
        stats: The statistics of its generation: tokens, passes, tokens per pass, seconds, exactness; not saved.
        state: The session of a clip that a generator made, with its part of the cache where that was kept: then it is
            continued without its tokens being read again. It is not saved with the clip.
        inputs: The files that it was made from, which `save` never replaces.
        fingerprint: The fingerprint of the frames that its tokens stand for; None takes it on trust that they are its.

    Raises:
        ReelmError: The frames, the tokens or fps have a wrong shape, dtype or value.
    """

    frames: np.ndarray
    fps: float
    tokens: np.ndarray | None = None
    segments: dict[str, np.ndarray] = field(default_factory=dict)
    prompt: str = ""
    seed: int | None = None
    settings: Json = field(default_factory=dict)
    stats: dict[str, Any] = field(default_factory=dict)
    state: SessionState | None = None
    inputs: tuple[Path, ...] = ()
    fingerprint: Fingerprint | None = None

    def __post_init__(self) -> None:
        self.frames = _numpy(self.frames)
        shape = self.frames.shape
        frames_ok = len(shape) == 4 and shape[3] == 3 and 0 not in shape and self.frames.dtype == np.uint8
        require(frames_ok, "frames", "must be (T, H, W, 3) uint8 without zero sizes", (shape, self.frames.dtype))
        fps, seed = to_python(self.fps), to_python(self.seed)
        number = isinstance(fps, int | float) and not isinstance(fps, bool) and 0 < fps < 2**63
        require(number, "fps", "must be finite and above 0", self.fps)
        require(seed is None or type(seed) is int, "seed", "must be a whole number or None", self.seed)
        self.fps, self.seed = float(fps), seed  # type: ignore[arg-type, assignment]  # the rules say so
        if self.tokens is not None:
            tokens = _numpy(self.tokens)
            tokens_ok = tokens.ndim == 3 and tokens.dtype.kind in "iu" and 0 not in tokens.shape
            require(tokens_ok, "tokens", "must be (t, h, w) integers without zero sizes", (tokens.shape, tokens.dtype))
            self.tokens = tokens.astype(np.int64, copy=False)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The numbers of frames, rows and columns (T, H, W)."""
        count, height, width, _ = self.frames.shape
        return count, height, width

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return len(self.frames) / self.fps

    def __repr__(self) -> str:
        count, height, width, _ = self.frames.shape
        tokens = "no tokens" if self.tokens is None else f"tokens {tuple(self.tokens.shape)}"
        size = f"{count} frames {width}x{height} at {self.fps:.4g} fps = {self.seconds:.4g} s"
        prompt = self.prompt if len(self.prompt) <= 60 else self.prompt[:57] + "..."
        return f"Video({size}, {tokens}, prompt={prompt!r}, seed={self.seed})"

    @overload
    def to(self, kind: Literal["np"]) -> np.ndarray: ...
    @overload
    def to(self, kind: Literal["pt"]) -> torch.Tensor: ...
    @overload
    def to(self, kind: Literal["pil"]) -> Images: ...
    @overload
    def to(self, kind: Literal["np", "pt", "pil"]) -> Frames: ...

    def to(self, kind: Literal["np", "pt", "pil"]) -> Frames:
        """Return float32 frames in [0, 1], `np` (T, H, W, 3) or `pt` (T, 3, H, W), or a list of `pil` images."""
        check_output_type(kind, "kind")
        if kind == "pil":
            from PIL import Image

            return [Image.fromarray(frame) for frame in self.frames]
        values = self.frames.astype(np.float32) / np.float32(255)
        return values if kind == "np" else torch.from_numpy(values).permute(0, 3, 1, 2).contiguous()

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the clip atomically, and return the path, whose suffix is the format (see `write_clip`).

        Args:
            path: The file or folder.
            overwrite: Whether a file that is not a clip of reelm may be replaced.

        Raises:
            ReelmError: The path cannot be written, its format is unknown, or a file there would be lost.
        """
        metadata = video_metadata(self)
        return write_clip(path, self.frames, self.fps, metadata=metadata, overwrite=overwrite, inputs=self.inputs)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        limits: ClipLimits = DEFAULT_LIMITS,
        folder_fps: float = FOLDER_FPS,
        argument: str = "clip",
    ) -> "Video":
        """Read any clip, and from a file of reelm its tokens, prompt, seed and settings too.

        Metadata that is absent, foreign or broken is left out (tokens None), and never an error. So are the tokens of a
        clip whose pictures another program has changed, and a note says so. A clip whose frame rate varies is resampled
        to the rate of its moving parts.

        Args:
            path: The file or folder.
            limits: The limits on the size of the file.
            folder_fps: The frames per second of a folder of pictures that reelm has not written.
            argument: The name of the clip in error messages.

        Raises:
            ClipError: The file is missing, broken, truncated or above the limits.
        """
        clip = read_clip(path, limits=limits, folder_fps=folder_fps, argument=argument)
        if clip.times is not None:
            height, width = clip.frames_THW3.shape[1:3]
            limits.check(Path(path), height=height, width=width, frames=clip.seconds * clip.fps)
            frames_THW3, _ = resample_frames(clip.frames_THW3, clip.times, clip.fps)
            clip = dataclasses.replace(clip, frames_THW3=frames_THW3, times=None)
        return cls.from_clip(clip, Path(path))

    @classmethod
    def from_clip(cls, clip: Clip, path: Path) -> "Video":
        """Return the video of a clip of constant rate that was read from `path`; see `load`."""
        video = cls(clip.frames_THW3.numpy(), clip.fps, inputs=(path,), **_read_metadata(clip.metadata))
        if video.tokens is not None and not _belongs(video, clip.metadata):
            note(f"{path}: its pictures are no longer those of its tokens; it is read like any other clip")
            video.tokens, video.segments, video.fingerprint = None, {}, None
        return video

    @classmethod
    def from_session(
        cls, session: SessionState, frames: np.ndarray, fps: float, stats: Mapping[str, object] | None = None
    ) -> "Video":
        """Return the clip of a session with these frames, which keeps the session as its `state`."""
        return cls(
            frames=frames, tokens=session.tokens_thw.numpy(), fps=fps, prompt=session.prompt, seed=session.seed,
            segments={name: tokens.numpy() for name, tokens in session.segments.items()}, settings=session.settings,
            stats=dict(stats or {}), state=session, fingerprint=Fingerprint.of(frames),
        )  # fmt: skip

    def compare(self) -> Likeness:
        """Return whether the frames are "equal" to those of the tokens, "alike" after a lossy file, or "other" ones."""
        return "equal" if self.fingerprint is None else self.fingerprint.compare(self.frames)

    def to_session(self) -> SessionState | None:
        """Return the session of the clip, with the cache of `state` if its tokens are the clip's.

        It is None for a clip without tokens, and for one whose frames are no longer those of its tokens.
        """
        if self.tokens is None:
            return None
        if self.compare() == "other":
            note("the frames are no longer those of the clip's tokens; it is read like any other clip")
            return None
        tokens = {name: to_tensor(np.asarray(values)).long() for name, values in self.segments.items()}
        tokens_thw, kept = to_tensor(np.asarray(self.tokens)).long(), self.state
        grids = {"video": tokens_thw, **tokens}
        same = kept is not None and kept.grids.keys() == grids.keys() and all(
            torch.equal(grid, grids[name]) for name, grid in kept.grids.items()
        )  # fmt: skip
        cache, conditions = (kept.cache, kept.conditions) if kept is not None and same else ({}, ())
        return SessionState(tokens_thw, tokens, cache, conditions, self.prompt, self.seed, self.settings)


def video_metadata(video: Video, fingerprint: Fingerprint | None = None) -> Json:
    """Return the metadata of a saved `video`; the format is defined here and in `_read_metadata`, nowhere else.

    `grid` is (t, h, w); `tokens` is base64 of zlib of little-endian uint16, or of uint32 where an id needs it; `shape`
    and `fps` are the (T, H, W) and the rate of the frames that the tokens represent, and `fingerprint` is that of their
    pictures. `segments` has grid and tokens of the other segments, by name. Tokens that the frames no longer show are
    left out.

    Args:
        video: The clip.
        fingerprint: The fingerprint of the frames, where they are not those of `video`.
    """
    values: dict[str, object] = {
        "reelm": __version__,
        "model": video.settings.get("model"),
        "prompt": video.prompt,
        "seed": video.seed,
        "settings": video.settings,
    }
    shown = video.tokens is not None and (fingerprint is not None or video.compare() != "other")
    packed = _pack_tokens(video.tokens) if shown and video.tokens is not None else None
    if packed is not None:
        fingerprint = fingerprint or video.fingerprint or Fingerprint.of(video.frames)
        values |= {"shape": video.frames.shape[:3], "fps": video.fps, "fingerprint": fingerprint.pack(), **packed}
        if video.segments:
            values["segments"] = {name: _pack_tokens(tokens) for name, tokens in video.segments.items()}
    return {key: _json_value(value) for key, value in values.items()}


def _read_metadata(values: Json) -> dict[str, Any]:
    """Return the arguments of `Video` in the metadata of a file, without any that `video_metadata` did not write."""
    if not isinstance(values.get("reelm"), str):
        return {}
    wanted = {"prompt": str, "seed": int, "settings": dict}
    found: dict[str, Any] = {key: values[key] for key, kind in wanted.items() if type(values.get(key)) is kind}
    shape: Any = values.get("shape")
    if not (isinstance(shape, list) and len(shape) == 3 and all(type(size) is int and size > 0 for size in shape)):
        return found
    found["tokens"] = _unpack_tokens(values, limits=tuple(shape))
    segments: Any = values.get("segments")
    if isinstance(segments, dict) and all(isinstance(packed, dict) for packed in segments.values()):
        unpacked = {name: _unpack_tokens(packed) for name, packed in segments.items()}
        found["segments"] = {name: tokens for name, tokens in unpacked.items() if tokens is not None}
    return found


def _belongs(video: Video, values: Json) -> bool:
    """Return whether the frames of a video are those of the tokens in its file, whose fingerprint it then gets."""
    shape, fps = list(video.frames.shape[:3]), values.get("fps")
    same_rate = isinstance(fps, int | float) and math.isclose(video.fps, fps, rel_tol=MAX_RATE_ERROR)
    if values.get("shape") != shape or not same_rate:
        return False
    video.fingerprint = Fingerprint.unpack(values.get("fingerprint"), shape)
    return video.fingerprint is not None and video.compare() != "other"


def _pack_tokens(tokens: np.ndarray) -> dict[str, Any] | None:
    """Return tokens as JSON values; None where a value is no token id."""
    if tokens.size == 0 or tokens.min() < 0 or tokens.max() >= 2**32:
        return None
    dtype = "<u2" if tokens.max() < 2**16 else "<u4"
    return {"grid": tokens.shape, "tokens": base64.b64encode(zlib.compress(tokens.astype(dtype).tobytes(), 9)).decode()}


def _unpack_tokens(packed: dict[str, Any], limits: tuple[int, ...] | None = None) -> np.ndarray | None:
    """Return the tokens that `_pack_tokens` packed; None for invalid values or a shape that exceeds `limits`."""
    grid, text = packed.get("grid"), packed.get("tokens")
    if not isinstance(text, str) or not isinstance(grid, list) or not grid:
        return None
    if not all(type(size) is int and 0 < size <= MAX_TOKENS for size in grid):
        return None
    if limits is not None and not (
        len(grid) == len(limits) and all(size <= limit for size, limit in zip(grid, limits, strict=True))
    ):
        return None
    count = math.prod(grid)
    if count > MAX_TOKENS:
        return None
    try:
        # At most one byte more than is valid, so that a decompression bomb is not unpacked.
        data = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), 4 * count + 1)
    except (binascii.Error, zlib.error, ValueError):
        return None
    dtype = {2 * count: "<u2", 4 * count: "<u4"}.get(len(data))
    return None if dtype is None else np.frombuffer(data, dtype).astype(np.int64).reshape(grid)


def check_output_type(kind: object, argument: str) -> None:
    """Refuse any value that is not a form of `Video.to`."""
    require(isinstance(kind, str) and kind in ("np", "pt", "pil"), argument, "must be 'np', 'pt' or 'pil'", kind)


def _json_value(value: object) -> JsonValue:
    """Convert to JSON values; where JSON has no such value, its `repr` must not cost the user the clip."""
    value = to_python(value)
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def _numpy(value: np.ndarray | torch.Tensor) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
