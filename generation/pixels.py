"""Tokens to frames as they are shown: uint8, a latent frame at a time, so that memory does not grow with the clip.

decoder = PixelDecoder(codec)
frames = decoder.decode({clip: tokens_hw, …})[clip]            # clips in different phases are decoded together
clips = decode_clips(codec, [tokens_thw, …])                   # whole clips, whatever their lengths
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from ..core.protocols import Codec

AT_ONCE = 16  # clips that are decoded together: more gain no time, and take more memory

ClipKey = TypeVar("ClipKey", bound=Hashable)


class PixelDecoder:
    """Decodes clips latent frame by latent frame, and remembers how far each of them is."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._states: dict[Hashable, Any] = {}

    @torch.no_grad()
    def decode(self, frames: Mapping[ClipKey, torch.Tensor]) -> dict[ClipKey, np.ndarray]:
        """The frames (T, H, W, 3) uint8 of the next latent frame (h, w) of each of these clips."""
        clips = list(frames)
        tokens_Bhw = torch.stack([frames[clip] for clip in clips]).to(self._codec.device)
        made, states = self._codec.decode_frame(tokens_Bhw, [self._states.get(clip) for clip in clips])
        self._states |= zip(clips, states, strict=True)
        shown = [(frames_THW3.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy() for frames_THW3 in made]
        return dict(zip(clips, shown, strict=True))

    def forget(self, clip: Hashable) -> None:
        """Leave out what a clip that has ended goes on from."""
        self._states.pop(clip, None)


def decode_clips(codec: Codec, tokens: Sequence[torch.Tensor], known: int = 0) -> list[np.ndarray]:
    """The frames (T, H, W, 3) of each clip (t, h, w) after its first `known` latent frames."""
    return [
        frames
        for first in range(0, len(tokens), AT_ONCE)
        for frames in _decode_together(codec, tokens[first : first + AT_ONCE], known)
    ]


def _decode_together(codec: Codec, tokens: Sequence[torch.Tensor], known: int) -> list[np.ndarray]:
    # Of those that are known the decoder needs the last few.
    start = max(0, known - max(1, codec.memory))
    skipped = codec.compression.frames(known - start)
    # In one piece from the beginning: long-lived parts among the decoder's large tensors would keep the memory between
    # them from being used again, and joining them would take as much once more.
    whole: list[np.ndarray] = [np.empty(0, np.uint8) for _ in tokens]
    done = [0 for _ in tokens]
    for made in _by_latent_frame(codec, [tokens_thw[start:] for tokens_thw in tokens]):
        for clip, frames in made.items():
            if not done[clip]:
                total = codec.compression.frames(len(tokens[clip]) - start) - skipped
                whole[clip] = np.empty((total, *frames.shape[1:]), np.uint8)
            new = frames[max(0, skipped - done[clip]) :]
            first = max(0, done[clip] - skipped)
            whole[clip][first : first + len(new)] = new
            done[clip] += len(frames)
    return whole


def _by_latent_frame(codec: Codec, tokens: Sequence[torch.Tensor]) -> Iterator[dict[int, np.ndarray]]:
    """The frames of latent frame 0 of all clips, then of 1 of all that have one, and so on."""
    decoder = PixelDecoder(codec)
    for index in range(max(map(len, tokens))):
        yield decoder.decode({clip: t[index] for clip, t in enumerate(tokens) if index < len(t)})
