"""What a continuation starts from: any clip, as frames of the model's size and rate and as its tokens.

source = read_source(parts, "holiday.mp4", fit="crop")
source.tokens_thw, source.frames_THWC, source.prompts
"""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import require
from ..tokenizer.clip_fit import FITS, Fit, as_frames, fit_clip
from .noise import NoiseKey
from .origin import read_key, read_latent_schedule, read_sampling
from .plan import PromptSchedule, TemperatureSchedule
from .pretrained import Pretrained
from .rules import SamplingConfig
from .state import SessionState
from .video import Video

CHUNK = 64  # latent frames encoded at once


@dataclass(frozen=True)
class Source:
    """A clip to continue.

    Attributes:
        frames_THWC: uint8, at the model's rate and size; None where they are still to be decoded.
        tokens_thw: int64, of its frames; up to `temporal - 1` of the first frames may have none.
        prompts, negative_prompt, key, sampling, temperatures: its own, where it has any; a clip that goes on with all
            of them is the one that was longer at once.
        ring: of the cache, or empty: then the tokens are read again.
        detailed: whether its frames show more than its tokens tell: a clip from elsewhere, or what continues one.
        said: one line on how it was made to fit, or None.
    """

    frames_THWC: torch.Tensor | None
    tokens_thw: torch.Tensor
    prompts: PromptSchedule = ()
    negative_prompt: str = ""
    key: NoiseKey | None = None
    sampling: SamplingConfig | None = None
    temperatures: TemperatureSchedule = ()
    ring: dict[str, torch.Tensor] = field(default_factory=dict)
    detailed: bool = False
    said: str | None = None


def read_source(parts: Pretrained, clip: Any, fit: Fit = "crop") -> Source:
    """Read, fit and encode a clip; a `Video` or a session whose tokens are this model's is taken as it is.

    Raises:
        ReelmError: the clip or `fit` is refused.
    """
    require(fit in FITS, "fit", f"must be one of {FITS}", fit)
    if isinstance(clip, str | os.PathLike):
        clip = SessionState.load(Path(clip)) if Path(clip).suffix == ".safetensors" else Video.load(Path(clip))
    if isinstance(clip, SessionState):
        fits = clip.settings.get("tokenizer") == parts.tokenizer_id and _tokens_fit(parts, clip.tokens_thw)
        require(fits, "session", "must be of this model", clip.settings.get("model"))
        return _own_source(parts, None, clip)
    if isinstance(clip, Video):
        own = _own_tokens(parts, clip)
        if own is not None:
            state = SessionState(own, {}, clip.prompt, clip.seed, clip.settings)
            if clip.state is not None and torch.equal(clip.state.tokens_thw, own):
                state = dataclasses.replace(state, ring=clip.state.ring)
            return _own_source(parts, torch.from_numpy(clip.frames), state)
        frames, prompt = torch.from_numpy(clip.frames), clip.prompt
        rate: float | np.ndarray = clip.fps
    else:
        frames, times_or_fps = as_frames(clip)
        rate, prompt = (parts.config.fps if times_or_fps is None else times_or_fps), ""
    frames, said = fit_clip(
        frames, rate, fps=parts.config.fps, height=parts.config.height, width=parts.config.width, fit=fit
    )
    tokens_thw = encode_frames(parts, frames)
    return Source(frames, tokens_thw, ((0, _known(parts, prompt)),), detailed=True, said=said)


def _own_source(parts: Pretrained, frames_THWC: torch.Tensor | None, state: SessionState) -> Source:
    """A clip of this model, with whatever of its settings is whole and sound: a file can say anything."""
    settings = state.settings
    negative, own = settings.get("negative_prompt"), settings.get("lm") == parts.lm_id
    prompts = read_latent_schedule(settings.get("prompts"), str) or ((0, state.prompt),)
    return Source(
        frames_THWC,
        state.tokens_thw,
        tuple((start, _known(parts, text, own=own)) for start, text in prompts),
        _known(parts, negative if isinstance(negative, str) else "", own=own),
        read_key(state.seed, settings),
        read_sampling(settings),
        read_latent_schedule(settings.get("temperatures"), int, float),
        state.ring if own else {},
        settings.get("detail") is True,
    )


def _known(parts: Pretrained, prompt: str, *, own: bool = False) -> str:
    """A prompt that comes with a clip, or none where this model could not read it: the clip may be another model's.

    One of this model's `own` clips was drawn with the words that it does not know too.
    """
    fits = len(parts.text.encode(prompt)) <= parts.config.lm.prefix
    return prompt if fits and (own or not parts.text.unknown_words(prompt)) else ""


def _tokens_fit(parts: Pretrained, tokens_thw: torch.Tensor) -> bool:
    lm = parts.config.lm
    return tokens_thw.shape[1:] == (lm.rows, lm.columns) and bool(
        (tokens_thw >= 0).all() and (tokens_thw < lm.vocab_size).all()
    )


def _own_tokens(parts: Pretrained, video: Video) -> torch.Tensor | None:
    """The tokens of a `Video`, if they are of this model's tokenizer and stand for its last frames."""
    if video.tokens is None or video.settings.get("tokenizer") != parts.tokenizer_id:
        return None
    tokens = torch.from_numpy(np.asarray(video.tokens)).long()
    extra = len(video.frames) - parts.tokenizer.compression.frames(len(tokens))
    fits = _tokens_fit(parts, tokens) and 0 <= extra < parts.tokenizer.compression.t
    size = video.frames.shape[1:3] == (parts.config.height, parts.config.width)
    return tokens if fits and size and video.fps == parts.config.fps else None


@torch.no_grad()
def encode_frames(parts: Pretrained, frames_THWC: torch.Tensor) -> torch.Tensor:
    """Tokens (t, h, w) of frames of the model's size, chunk by chunk.

    The last frame must be the last of its latent frame, since the clip goes on after it: where the number of frames is
    not 1 + n * temporal, the first few are left out.
    """
    temporal = parts.tokenizer.compression.t
    device = next(parts.tokenizer.parameters()).device
    frames_THWC = frames_THWC[(len(frames_THWC) - 1) % temporal :]
    chunks = [frames_THWC[:1], *frames_THWC[1:].split(CHUNK * temporal)] if len(frames_THWC) > 1 else [frames_THWC]
    tokens, cache = [], None
    for chunk in chunks:
        tokens_Bthw, cache = parts.tokenizer.encode_chunk(chunk[None].to(device), cache)
        tokens.append(tokens_Bthw[0])
    return torch.cat(tokens).cpu()
