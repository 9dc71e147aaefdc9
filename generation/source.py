"""What a continuation starts from: any clip, as frames of the model's size and rate and as its tokens.

source = read_source(parts, "holiday.mp4", fit="crop")
source.grids["video"], source.frames_THW3, source.prompts
"""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..core.condition import Condition, describe_conditions
from ..core.errors import require
from ..core.protocols import Codec
from ..media.fitting import FITS, Fit, as_frames, fit_clip
from ..sampling.noise_keys import NoiseKey
from ..sampling.plan import PromptSchedule, TemperatureSchedule
from ..sampling.rules import SamplingConfig
from .options import ClipLike
from .pretrained import Pretrained
from .provenance import read_key, read_latent_schedule, read_sampling
from .session import SessionState
from .video import Video

CHUNK = 64  # latent frames encoded at once


@dataclass(frozen=True)
class Source:
    """A clip to continue.

    Attributes:
        frames_THW3: uint8, at the model's rate and size; None where they are still to be decoded.
        grids: its tokens (t, *shape) by segment; up to `temporal - 1` of the first frames may have none.
        prompts, negative_prompt, conditions, key, sampling, temperatures: its own, where it has any; a clip that goes
            on with all of them is the one that was longer at once.
        cache: what its rows of the model's cache remember, or nothing: then the tokens are read again.
        detailed: whether its frames show more than its tokens hold: a clip from elsewhere, or what continues one.
        fitting: one line on how it was made to fit, or None.
        missing: one line on conditions that it was made under and that are not with it, or None.
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
    fitting: str | None = None
    missing: str | None = None

    @property
    def tokens_thw(self) -> torch.Tensor:
        """Its video tokens."""
        return self.grids["video"]


def read_source(parts: Pretrained, clip: ClipLike, fit: Fit = "crop", argument: str = "clip") -> Source:
    """Read, fit and encode a clip; a `Video` or a session whose tokens are this model's is taken as it is.

    Args:
        parts: the model.
        clip: see `VideoGenerator.continue_clip`.
        fit: how another shape of picture is fitted: "crop", "pad" or "stretch".
        argument: what a refusal calls the clip.

    Raises:
        ReelmError: the clip or `fit` is refused.
    """
    require(fit in FITS, "fit", f"must be one of {FITS}", fit)
    if isinstance(clip, str | os.PathLike):
        path = Path(clip)
        clip = SessionState.load(path) if path.suffix == ".safetensors" else Video.load(path)
    if isinstance(clip, SessionState):
        fits = clip.settings.get("tokenizer") == parts.tokenizer_id and parts.config.lm.layout.admits(clip.grids)
        require(fits, "session", "must be of this model", clip.settings.get("model"))
        return _own_source(parts, None, clip)
    if isinstance(clip, Video):
        own = _own_state(parts, clip)
        if own is not None:
            return _own_source(parts, torch.from_numpy(clip.frames), own)
        return _foreign_source(parts, torch.from_numpy(clip.frames), clip.fps, fit, clip.prompt)
    frames, times_or_fps = as_frames(clip, argument)
    return _foreign_source(parts, frames, parts.config.fps if times_or_fps is None else times_or_fps, fit)


def _foreign_source(
    parts: Pretrained, frames_THW3: torch.Tensor, times_or_fps: np.ndarray | float, fit: Fit, prompt: str = ""
) -> Source:
    """A clip from elsewhere: its frames as they fit the model, and the tokens that these are encoded to."""
    config = parts.config
    frames, fitting = fit_clip(
        frames_THW3, times_or_fps, fps=config.fps, height=config.height, width=config.width, fit=fit
    )
    tokens_thw, layout = encode_frames(parts.tokenizer, frames), config.lm.layout
    # What a clip from elsewhere has of other segments is not known: each of their tokens is the default one.
    grids = {each.name: torch.full((len(tokens_thw), *each.shape), each.default) for each in layout.others}
    prompts = ((0, _readable_prompt(parts, prompt)),)
    return Source(frames, {"video": tokens_thw, **grids}, prompts, detailed=True, fitting=fitting)


def _own_source(parts: Pretrained, frames_THW3: torch.Tensor | None, state: SessionState) -> Source:
    """A clip of this model, with whatever of its settings is whole and sound: a file can hold anything."""
    settings = state.settings
    negative, own = settings.get("negative_prompt"), settings.get("lm") == parts.lm_id
    # Those of another model's clip may be of kinds that this one does not read.
    conditions = tuple(condition for condition in state.conditions if condition.kind in parts.lm.reads)
    told, kept = settings.get("conditions"), describe_conditions(conditions)
    gone = [str(kind) for kind in (told if isinstance(told, list) else []) if kind not in kept]
    missing = f"warning: conditions: the clip was made under {', '.join(gone)}, which is not with it" if gone else None
    prompts = read_latent_schedule(settings.get("prompts"), str) or ((0, state.prompt),)
    return Source(
        frames_THW3,
        state.grids,
        tuple((start, _readable_prompt(parts, text, own=own)) for start, text in prompts),
        _readable_prompt(parts, negative if isinstance(negative, str) else "", own=own),
        conditions,
        read_key(state.seed, settings),
        read_sampling(settings),
        read_latent_schedule(settings.get("temperatures"), int, float),
        state.cache if own else {},
        settings.get("detail") is True,
        missing=missing,
    )


def _readable_prompt(parts: Pretrained, prompt: str, *, own: bool = False) -> str:
    """A prompt that comes with a clip, or none where this model could not read it: the clip may be another model's.

    One of this model's `own` clips was drawn with the words that it does not know too.
    """
    try:
        unknown = parts.lm.unknown_words(prompt, "prompt")
    except ValueError:
        return ""
    return prompt if own or not unknown else ""


def _own_state(parts: Pretrained, video: Video) -> SessionState | None:
    """The session of a `Video`, if its tokens are of this model's tokenizer and stand for its last frames."""
    if video.tokens is None or video.settings.get("tokenizer") != parts.tokenizer_id:
        return None
    segments = {name: torch.from_numpy(np.asarray(tokens)).long() for name, tokens in video.segments.items()}
    state = SessionState(
        torch.from_numpy(np.asarray(video.tokens)).long(), segments, prompt=video.prompt, seed=video.seed,
        settings=video.settings,
    )  # fmt: skip
    extra = len(video.frames) - parts.tokenizer.compression.frames(len(state.tokens_thw))
    fits = parts.config.lm.layout.admits(state.grids) and 0 <= extra < parts.tokenizer.compression.t
    size = video.frames.shape[1:3] == (parts.config.height, parts.config.width)
    if not (fits and size and video.fps == parts.config.fps):
        return None
    kept = video.state
    layout = parts.config.lm.layout
    if kept is None or not layout.admits(kept.grids) or not _same_grids(kept.grids, state.grids):
        return state
    return dataclasses.replace(state, cache=kept.cache, conditions=kept.conditions)


def _same_grids(grids: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tokens, others[name]) for name, tokens in grids.items())


@torch.no_grad()
def encode_frames(codec: Codec, frames_THW3: torch.Tensor) -> torch.Tensor:
    """Tokens (t, h, w) of frames whose sides the codec takes, chunk by chunk.

    The last frame must be the last of its latent frame, since the clip goes on after it: where the number of frames is
    not 1 + n * temporal, the first few are left out.
    """
    temporal = codec.compression.t
    frames_THW3 = frames_THW3[(len(frames_THW3) - 1) % temporal :]
    chunks = [frames_THW3[:1], *frames_THW3[1:].split(CHUNK * temporal)] if len(frames_THW3) > 1 else [frames_THW3]
    tokens, state = [], None
    for chunk in chunks:
        tokens_Bthw, state = codec.encode_chunk(chunk[None].to(codec.device), state)
        tokens.append(tokens_Bthw[0])
    return torch.cat(tokens).cpu()
