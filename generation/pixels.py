"""Convert whole clips between frames and tokens: a part at a time, so that memory does not grow with the clip.

tokens_thw = encode_frames(codec, frames_THW3)
decoder = PixelDecoder(codec)
frames = decoder.decode({clip: tokens_hw, …})[clip]            # the next latent frame of clips at any position
clips = decode_clips(codec, [tokens_thw, …])                   # whole clips of any lengths
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from ..core.progress import progress
from ..core.protocols import Codec

ENCODE_FRAMES = 64  # latent frames that are encoded together at most
ENCODE_BYTES = 2**30  # about what they may take, one of them as much as one that is decoded
DECODE_CLIPS = 16  # clips that are decoded together on a GPU: more are not faster, and take more memory

ClipKey = TypeVar("ClipKey", bound=Hashable)


@torch.no_grad()
def encode_frames(codec: Codec, frames_THW3: torch.Tensor) -> torch.Tensor:
    """Return the tokens (t, h, w) of a clip's frames, which must have a size that the codec accepts.

    The last frame must be the last one of its latent frame, since a clip is continued after it: where the frames do not
    fill whole latent frames, the first few are left out. There must be as many as the first latent frame has.
    """
    side = codec.compression
    frames_THW3 = frames_THW3[len(frames_THW3) - side.whole(len(frames_THW3)) :]
    chunks = [frames_THW3[: side.first]]
    if len(frames_THW3) > side.first:
        fitting = ENCODE_BYTES // codec.config.pixel_bytes(1, *frames_THW3.shape[1:3])
        chunks += frames_THW3[side.first :].split(max(1, min(ENCODE_FRAMES, fitting)) * side.t)
    tokens, state = [], None
    for chunk in progress(chunks, "encoding", unit="chunk"):
        tokens_Bthw, state = codec.encode_chunk(chunk[None].to(codec.device), state)
        tokens.append(tokens_Bthw[0])
    return torch.cat(tokens).cpu()


class PixelDecoder:
    """Decodes clips latent frame by latent frame, and keeps the decoder's state of each of them."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._states: dict[Hashable, Any] = {}

    @torch.no_grad()
    def decode(self, frames: Mapping[ClipKey, torch.Tensor]) -> dict[ClipKey, np.ndarray]:
        """Return the frames (T, H, W, 3) uint8 of the next latent frame (h, w) of each of these clips."""
        # On a CPU torch takes other convolutions for one clip than for several, with other last bits. One by one the
        # pixels are those of the clip alone; it took 0.8% of the time of calls of 4 and of 16 clips.
        together = 1 if self._codec.device.type == "cpu" else max(1, len(frames))
        names, pixels = list(frames), {}
        for first in range(0, len(names), together):
            clips = names[first : first + together]
            tokens_Bhw = torch.stack([frames[clip] for clip in clips]).to(self._codec.device)
            decoded, states = self._codec.decode_frame(tokens_Bhw, [self._states.get(clip) for clip in clips])
            self._states |= zip(clips, states, strict=True)
            for clip, frames_THW3 in zip(clips, decoded, strict=True):
                pixels[clip] = (frames_THW3.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        return pixels

    def state(self, clip: Hashable) -> object:
        """Return the decoder's state of a clip, which `restore` takes; None at the start of the clip."""
        return self._states.get(clip)

    def restore(self, clip: Hashable, state: object) -> None:
        """Go on with a clip from an earlier state of it."""
        self._states[clip] = state

    def forget(self, clip: Hashable) -> None:
        """Let go of the state of a clip of which nothing more is decoded."""
        self._states.pop(clip, None)


def decode_clips(codec: Codec, tokens: Sequence[torch.Tensor], known: int = 0) -> list[np.ndarray]:
    """Return the frames (T, H, W, 3) uint8 of each clip (t, h, w) after its first `known` latent frames."""
    return [
        frames
        for first in range(0, len(tokens), DECODE_CLIPS)
        for frames in _decode_together(codec, tokens[first : first + DECODE_CLIPS], known)
    ]


def _decode_together(codec: Codec, tokens: Sequence[torch.Tensor], known: int) -> list[np.ndarray]:
    # The decoder needs the last few of the known latent frames.
    start = max(0, known - max(1, codec.memory))
    skipped = codec.compression.frames(known - start)
    # One array for each clip, allocated at the first frames: parts that outlive the decoder's large tensors would keep
    # the memory between them from being used again, and joining them would take the same memory once more.
    clips: list[np.ndarray] = [np.empty(0, np.uint8) for _ in tokens]
    done = [0 for _ in tokens]
    for decoded in _by_latent_frame(codec, [tokens_thw[start:] for tokens_thw in tokens]):
        for clip, frames in decoded.items():
            if not done[clip]:
                total = codec.compression.frames(len(tokens[clip]) - start) - skipped
                clips[clip] = np.empty((total, *frames.shape[1:]), np.uint8)
            new = frames[max(0, skipped - done[clip]) :]
            first = max(0, done[clip] - skipped)
            clips[clip][first : first + len(new)] = new
            done[clip] += len(frames)
    return clips


def _by_latent_frame(codec: Codec, tokens: Sequence[torch.Tensor]) -> Iterator[dict[int, np.ndarray]]:
    """Yield the frames of latent frame 0 of all clips, then of latent frame 1 of all clips that have one, and so on."""
    decoder = PixelDecoder(codec)
    for index in progress(range(max(map(len, tokens))), "decoding", unit="latent frame"):
        yield decoder.decode({clip: t[index] for clip, t in enumerate(tokens) if index < len(t)})
