"""Keep the detail of a given clip in its continuation: add what the tokenizer lost of the clip's end to what follows.

frames_THW3 = keep_detail(given_THW3, decoded_THW3, frames_THW3)

The reconstruction of a tokenizer is softer than the clip. Without this the picture becomes soft where the continuation
begins, which is visible as a seam; with it, what stands still stays as it was given. What moves or changes is left as
decoded.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from ..core.protocols import Codec
from .pixels import decode_clips
from .source import Source

NEIGHBOURHOOD = 9  # pixels across; over fewer, noise alone makes two frames different
DIFFERENCE_SCALE = 8.0  # of 255: the root mean square difference at which the weight of a frame is 1/e


def decode_after(codec: Codec, source: Source | None, clips: Sequence[torch.Tensor]) -> list[np.ndarray]:
    """Return the frames (T, H, W, 3) uint8 of clips (t, h, w) of tokens.

    Args:
        codec: The codec.
        source: The clip that all of them continue, if there is one; its frames, where it has them, are kept as they
            are.
        clips: The tokens of each clip.
    """
    if source is None or source.frames_THW3 is None:
        return decode_clips(codec, clips)
    given_THW3, known, detailed = source.frames_THW3.numpy(), len(source.tokens_thw), source.keeps_detail
    return [_lengthen(codec, given_THW3, tokens_thw, known, detailed=detailed) for tokens_thw in clips]


def _lengthen(
    codec: Codec, given_THW3: np.ndarray, tokens_thw: torch.Tensor, known: int, *, detailed: bool
) -> np.ndarray:
    """Return the given frames as they are, followed by the decoded frames of the new tokens."""
    (frames_THW3,) = decode_clips(codec, [tokens_thw], known - 1)
    again = len(frames_THW3) - (len(tokens_thw) - known) * codec.compression.t
    decoded_THW3, new_THW3 = np.split(frames_THW3, [again])
    if detailed:
        new_THW3 = keep_detail(given_THW3[-again:], decoded_THW3, new_THW3)
    return np.concatenate([given_THW3, new_THW3])


def keep_detail(given_THW3: np.ndarray, decoded_THW3: np.ndarray, frames_THW3: np.ndarray) -> np.ndarray:
    """Add the loss of the last given frames, their difference from their reconstruction, to similar decoded frames.

    Each given frame has the weight w = exp(-d / DIFFERENCE_SCALE^2) at each pixel, where d is the mean squared
    difference, around the pixel, of its reconstruction from the decoded frame. The sum of w * loss, divided by
    max(1, sum of w), is added. Where several given frames are similar this is their mean loss, without the noise of
    each; where none is similar, it is nothing.

    Args:
        given_THW3: The last given frames, uint8.
        decoded_THW3: Their reconstruction by the tokenizer, uint8.
        frames_THW3: The decoded frames after them, uint8.

    Returns:
        The frames (T, H, W, 3) uint8 with detail.
    """
    given_T3HW, decoded_T3HW = (torch.from_numpy(part).movedim(-1, 1).float() for part in (given_THW3, decoded_THW3))
    loss_T3HW = given_T3HW - decoded_T3HW
    detailed_THW3 = np.empty_like(frames_THW3)
    for index, frame in enumerate(frames_THW3):  # one by one, so that long clips take no more memory
        frame_3HW = torch.from_numpy(frame).movedim(-1, 0).float()
        difference_T1HW = (decoded_T3HW - frame_3HW).square().mean(1, keepdim=True)
        padded = F.pad(difference_T1HW, (NEIGHBOURHOOD // 2,) * 4, mode="replicate")
        weight_T1HW = (-F.avg_pool2d(padded, NEIGHBOURHOOD, 1) / DIFFERENCE_SCALE**2).exp()
        detail_3HW = (weight_T1HW * loss_T3HW).sum(0) / weight_T1HW.sum(0).clamp(min=1)
        detailed_THW3[index] = (frame_3HW + detail_3HW).round().clamp(0, 255).byte().movedim(0, -1).numpy()
    return detailed_THW3
