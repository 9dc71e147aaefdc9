"""Read the clip that a continuation starts from: its frames at the model's size and rate, and its tokens.

source = read_source(parts, "holiday.mp4", fit="crop")
source.grids["video"], source.frames_THW3, source.prompts
"""

import dataclasses
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..core.condition import Condition
from ..core.errors import ReelmError, require
from ..core.plain_values import to_tensor
from ..core.progress import note
from ..media.arrays import as_frames, check_size
from ..media.clip import Clip
from ..media.fitting import FITS, Fit, fit_clip
from ..media.reader import read_clip
from ..sampling.plan import NoiseKey, PromptSchedule, SamplingConfig, TemperatureSchedule
from .familiarity import note_unfamiliar
from .options import ClipLike
from .pixels import encode_frames
from .pretrained import Pretrained
from .provenance import missing_conditions, read_key, read_prompt, read_sampling, read_schedules
from .session import SessionState
from .video import MAX_RATE_ERROR, Video


@dataclass(frozen=True)
class Source:
    """A clip to continue.

    A clip of this model that is continued with all of its own values is the clip that would have been drawn at once.

    Attributes:
        frames_THW3: The frames, uint8, at the model's rate and size, and at least those of a latent frame 0; None where
            they are still to be decoded.
        grids: The tokens (t, *shape) by segment; up to `temporal - 1` of the first frames may have none.
        prompts: The clip's own prompts, empty where it has none.
        negative_prompt: The clip's own negative prompt.
        conditions: The clip's own conditions.
        key: The key of the clip's own noise, or None.
        sampling: The clip's own sampling settings, or None.
        temperatures: The clip's own schedule of temperatures.
        cache: The state of its rows of the model's cache, or an empty dictionary: then its tokens are read again.
        detailed: Whether its frames have more detail than its tokens: a clip from elsewhere, or a continuation of one.
        keeps_detail: Whether the detail of its last frames is kept in those that follow.
        missing: A warning about conditions that the clip was drawn under and that did not come with it, or None.
        inputs: The files that the clip was made from.
        planned: The latent frames that the clip was to have when it was drawn, or None.
    """

    frames_THW3: torch.Tensor | None
    grids: dict[str, torch.Tensor]
    prompts: PromptSchedule = ()
    negative_prompt: str = ""
    conditions: tuple[Condition, ...] = ()
    key: NoiseKey | None = None
    sampling: SamplingConfig | None = None
    temperatures: TemperatureSchedule = ()
    cache: dict[str, torch.Tensor] = field(default_factory=dict)
    detailed: bool = False
    keeps_detail: bool = False
    missing: str | None = None
    inputs: tuple[Path, ...] = ()
    planned: int | None = None

    @property
    def tokens_thw(self) -> torch.Tensor:
        """The video tokens."""
        return self.grids["video"]


def read_source(parts: Pretrained, clip: ClipLike, fit: Fit = "crop", argument: str = "clip") -> Source:
    """Read, fit and encode a clip; a `Video` or a session with tokens of this model keeps its tokens.

    A note says how a clip was fitted, and that the model does not know pictures like those of a file.

    Args:
        parts: The model.
        clip: The clip; see `VideoGenerator.continue_clip`.
        fit: How a picture of another shape is fitted: "crop", "pad" or "stretch".
        argument: The name of the clip in error messages.

    Raises:
        ReelmError: The clip or `fit` is refused.
    """
    require(fit in FITS, "fit", f"must be one of {FITS}", fit)
    inputs: tuple[Path, ...] = ()
    if isinstance(clip, str | os.PathLike):
        path = Path(clip)
        inputs = (path,)
        is_session = path.suffix == ".safetensors"
        clip = SessionState.load(path, argument) if is_session else _load(path, parts.config.fps, argument)
    inputs = clip.inputs if isinstance(clip, Video) else inputs
    source = _read(parts, clip, fit, argument)
    if inputs and source.detailed:
        note_unfamiliar(parts, source.frames_THW3, source.tokens_thw)
    return dataclasses.replace(source, inputs=inputs)


def _load(path: Path, fps: float, argument: str) -> Video | Clip:
    """Read a file or, as frames of this rate, a folder of pictures; a varying rate is left for resampling to `fps`."""
    clip = read_clip(path, folder_fps=fps, argument=argument)
    return Video.from_clip(clip, path) if clip.times is None else clip


def _read(parts: Pretrained, clip: ClipLike, fit: Fit, argument: str) -> Source:
    """Return the source of a clip that was read from its file."""
    session = _own_session(parts, clip)
    if session is not None:
        return _own_source(parts, _known_frames(parts, clip, session), session)
    if isinstance(clip, SessionState):
        raise ReelmError(f"{argument}: must be of this model, got {clip.settings.get('model')!r}")
    config, layout, prompt = parts.config, parts.config.lm.layout, ""
    times_or_fps: np.ndarray | float | None
    if isinstance(clip, Video):
        check_size(clip.frames, argument)
        frames, times_or_fps, prompt = to_tensor(clip.frames), clip.fps, read_prompt(parts.lm, clip.prompt)
    else:
        frames, times_or_fps = as_frames(clip, argument)
    rate = config.fps if times_or_fps is None else times_or_fps
    frames, fitting = fit_clip(frames, rate, fps=config.fps, height=config.height, width=config.width, fit=fit)
    if fitting:
        note(fitting)
    frames = _fill_first(frames, parts.tokenizer.compression.first)
    tokens_thw = encode_frames(parts.tokenizer, frames)
    # The other segments of a clip from elsewhere are not known: all of their tokens are the default one.
    others = {each.name: torch.full((len(tokens_thw), *each.shape), each.default) for each in layout.others}
    return Source(frames, {"video": tokens_thw, **others}, ((0, prompt),), detailed=True)


def _fill_first(frames_THW3: torch.Tensor, least: int) -> torch.Tensor:
    """Return the frames, with copies of frame 0 before them where they are fewer than those of a latent frame 0."""
    missing = max(0, least - len(frames_THW3))
    if missing:
        note(f"clip: its first frame is repeated, to the {least} frames of the model's first latent frame")
    return torch.cat([frames_THW3[:1].expand(missing, -1, -1, -1), frames_THW3])


def _known_frames(parts: Pretrained, clip: ClipLike, session: SessionState) -> torch.Tensor | None:
    """Return the frames of a clip of this tokenizer; None where its tokens give them without the loss of its file."""
    if not isinstance(clip, Video):
        return None
    whole = len(clip.frames) == parts.tokenizer.compression.frames(len(session.tokens_thw))
    from_tokens = whole and session.settings.get("detail") is not True and clip.compare() == "alike"
    return None if from_tokens else to_tensor(clip.frames)


def _own_source(parts: Pretrained, frames_THW3: torch.Tensor | None, session: SessionState) -> Source:
    """Return a clip of this tokenizer, with those of its settings that are valid: a file can contain anything."""
    settings = session.settings
    negative, own = settings.get("negative_prompt"), settings.get("lm") == parts.lm_id
    # Those of another model's clip may be of kinds that this one does not read.
    conditions = tuple(condition for condition in session.conditions if condition.kind in parts.lm.reads)
    prompts, temperatures = read_schedules(settings)
    return Source(
        frames_THW3,
        session.grids,
        cache=session.cache if own else {},
        detailed=settings.get("detail") is True,
        conditions=conditions,
        missing=missing_conditions(settings, conditions),
        planned=session.planned,
        key=read_key(session.seed, settings),
        temperatures=temperatures,
        prompts=tuple((at, read_prompt(parts.lm, text, own=own)) for at, text in prompts or ((0, session.prompt),)),
        negative_prompt=read_prompt(parts.lm, negative if isinstance(negative, str) else "", own=own),
        sampling=read_sampling(settings),
    )


def _own_session(parts: Pretrained, clip: ClipLike) -> SessionState | None:
    """Return a session of this model's tokenizer: the clip itself, or that of a `Video` whose last frames it holds."""
    config, compression = parts.config, parts.tokenizer.compression
    if not isinstance(clip, Video | SessionState) or clip.settings.get("tokenizer") != parts.tokenizer_id:
        return None
    session = clip.to_session() if isinstance(clip, Video) else clip
    if session is None or not config.lm.layout.admits(session.grids):
        return None
    if isinstance(clip, Video):
        extra = len(clip.frames) - compression.frames(len(session.tokens_thw))
        same_size = clip.frames.shape[1:3] == (config.height, config.width)
        same_size = same_size and math.isclose(clip.fps, config.fps, rel_tol=MAX_RATE_ERROR)
        return session if same_size and 0 <= extra < compression.t else None
    return session
