"""What a continuation starts from: any clip, as frames of the model's size and rate and as its tokens.

source = read_source(parts, "holiday.mp4", fit="crop")
source.tokens_thw, source.frames_THWC, source.prompt
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.config import from_dict
from ..core.errors import require
from ..tokenizer.clip_fit import FITS, Fit, as_frames, fit_clip
from .noise import NoiseKey
from .pretrained import Pretrained
from .rules import SamplingConfig
from .video import Video

CHUNK = 64  # latent frames encoded at once


@dataclass(frozen=True)
class Source:
    """A clip to continue.

    Attributes:
        frames_THWC: uint8, at the model's rate and size.
        tokens_thw: int64, of its frames; up to `temporal - 1` of the first frames may have none.
        prompt, negative_prompt, key, sampling: its own, where it has any; a clip that goes on with all of them is the
            one that was longer at once.
        said: one line on how it was made to fit, or None.
    """

    frames_THWC: torch.Tensor
    tokens_thw: torch.Tensor
    prompt: str = ""
    negative_prompt: str = ""
    key: NoiseKey | None = None
    sampling: SamplingConfig | None = None
    said: str | None = None


def read_source(parts: Pretrained, clip: Any, fit: Fit = "crop") -> Source:
    """Read, fit and encode a clip; a `Video` whose tokens are this model's is taken as it is.

    Raises:
        ReelmError: the clip or `fit` is refused.
    """
    require(fit in FITS, "fit", f"must be one of {FITS}", fit)
    if isinstance(clip, str | os.PathLike):
        clip = Video.load(Path(clip))
    if isinstance(clip, Video):
        own = _own_tokens(parts, clip)
        if own is not None:
            negative = clip.settings.get("negative_prompt")
            return Source(
                torch.from_numpy(clip.frames),
                own,
                _known(parts, clip.prompt),
                _known(parts, negative if isinstance(negative, str) else ""),
                _own_key(clip),
                _own_sampling(clip),
            )
        frames, prompt = torch.from_numpy(clip.frames), clip.prompt
        rate: float | np.ndarray = clip.fps
    else:
        frames, times_or_fps = as_frames(clip)
        rate, prompt = (parts.config.fps if times_or_fps is None else times_or_fps), ""
    frames, said = fit_clip(
        frames, rate, fps=parts.config.fps, height=parts.config.height, width=parts.config.width, fit=fit
    )
    return Source(frames, encode_frames(parts, frames), _known(parts, prompt), said=said)


def _known(parts: Pretrained, prompt: str) -> str:
    """A prompt that comes with a clip, or none where this model could not read it: the clip may be another model's."""
    fits = len(parts.text.encode(prompt)) <= parts.config.lm.prefix and not parts.text.unknown_words(prompt)
    return prompt if fits else ""


def _own_key(video: Video) -> NoiseKey | None:
    """The noise that a `Video` was drawn with; a file can say anything, so what is no seed is none."""
    sample = video.settings.get("sample", 0)
    if type(video.seed) is int and 0 <= video.seed < 2**63 and type(sample) is int and 0 <= sample < 2**31:
        return NoiseKey(video.seed, sample)
    return None


def _own_sampling(video: Video) -> SamplingConfig | None:
    """The sampling settings that a `Video` was drawn with, if they are whole and sound."""
    names = [item.name for item in dataclasses.fields(SamplingConfig)]
    try:
        return from_dict(SamplingConfig, {name: video.settings[name] for name in names})
    except (KeyError, ValueError):
        return None


def _own_tokens(parts: Pretrained, video: Video) -> torch.Tensor | None:
    """The tokens of a `Video`, if they are of this model's tokenizer and stand for its last frames."""
    if video.tokens is None or video.settings.get("tokenizer") != parts.tokenizer_id:
        return None
    lm, tokens = parts.config.lm, np.asarray(video.tokens)
    extra = len(video.frames) - parts.tokenizer.compression.frames(len(tokens))
    fits = tokens.shape[1:] == (lm.rows, lm.columns) and 0 <= extra < parts.tokenizer.compression.t
    inside = tokens.min() >= 0 and tokens.max() < lm.vocab_size
    size = video.frames.shape[1:3] == (parts.config.height, parts.config.width)
    return torch.from_numpy(tokens).long() if fits and inside and size and video.fps == parts.config.fps else None


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
    tokens = [
        parts.tokenizer.encode_chunk(chunk[None].to(device), first=index == 0)[0] for index, chunk in enumerate(chunks)
    ]
    return torch.cat(tokens).cpu()
