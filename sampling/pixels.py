"""Tokens to frames as they are shown: uint8, a latent frame at a time, so that memory does not grow with the clip.

frames, cache = decode_next(tokenizer, tokens_Bthw, cache)      # as tokens come
clips = decode_clips(tokenizer, [tokens_thw, …])                # all at once, whatever their lengths
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..tokenizer.model import VideoTokenizer


@torch.no_grad()
def decode_next(tokenizer: VideoTokenizer, tokens_Bthw: torch.Tensor, cache: Any) -> tuple[np.ndarray, Any]:
    """Frames (B, T, H, W, 3) uint8 of the next latent frames, and the decoder's cache for those after them."""
    device = next(tokenizer.parameters()).device
    frames, cache = tokenizer.decode_chunk(tokens_Bthw.to(device), cache)
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy(), cache


def decode_clips(tokenizer: VideoTokenizer, tokens: Sequence[torch.Tensor], known: int = 0) -> list[np.ndarray]:
    """The frames (T, H, W, 3) of each clip after its first `known` latent frames; clips of one length go together."""
    clips: dict[int, np.ndarray] = {}
    for length in dict.fromkeys(map(len, tokens)):
        alike = [clip for clip, tokens_thw in enumerate(tokens) if len(tokens_thw) == length]
        tokens_Bthw = torch.stack([tokens[clip] for clip in alike])
        # Of those that are known the decoder needs the last few.
        start = max(0, known - max(1, tokenizer.memory))
        skipped = tokenizer.compression.frames(known - start)
        # In one piece from the beginning: long-lived parts among the decoder's large tensors would keep the memory
        # between them from being used again, and joining them would take as much once more.
        frames_BTHWC, done, cache = np.empty(0, np.uint8), 0, None
        for chunk in tokens_Bthw[:, start:].split(1, 1):
            frames, cache = decode_next(tokenizer, chunk, cache)
            if not done:
                total = tokenizer.compression.frames(length - start) - skipped
                frames_BTHWC = np.empty((len(alike), total, *frames.shape[2:]), np.uint8)
            new = frames[:, max(0, skipped - done) :]
            first = max(0, done - skipped)
            frames_BTHWC[:, first : first + new.shape[1]] = new
            done += frames.shape[1]
        clips |= dict(zip(alike, frames_BTHWC, strict=True))
    return [clips[clip] for clip in range(len(tokens))]
