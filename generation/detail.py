"""Detail of a given clip, kept in its continuation: what the tokenizer lost of the clip's end is added to what follows.

frames_THWC = keep_detail(given_NHWC, decoded_NHWC, frames_THWC)

A tokenizer's reconstruction is softer than the clip. Without this the picture goes soft where the continuation begins,
which is seen as a seam; with it, what stands still stays as it was given. What moves or changes is left as decoded.
"""

import numpy as np
import torch
from torch.nn import functional as F

NEIGHBOURHOOD = 9  # pixels across; over fewer, noise alone tells two frames apart
ALIKE = 8.0  # of 255: the root mean square of a difference that leaves 1/e of the trust


def keep_detail(given_NHWC: np.ndarray, decoded_NHWC: np.ndarray, frames_THWC: np.ndarray) -> np.ndarray:
    """Add to decoded frames the difference of the last given frames from their reconstruction, where they are alike.

    Each given frame counts by w = exp(-d / ALIKE^2), d the mean squared difference, around a pixel, of its own
    reconstruction from the frame to be shown: sum(w * lost) / max(1, sum(w)). Where several are alike this is their
    mean, without the noise of each; where none is, nothing.

    Args:
        given_NHWC: the last frames given, uint8.
        decoded_NHWC: the same through the tokenizer.
        frames_THWC: what the tokenizer decodes after them.

    Returns:
        The frames (T, H, W, 3) uint8 to be shown.
    """
    given_N3HW, decoded_N3HW = (torch.from_numpy(part).movedim(-1, 1).float() for part in (given_NHWC, decoded_NHWC))
    lost_N3HW = given_N3HW - decoded_N3HW
    shown_THWC = np.empty_like(frames_THWC)
    for place, frame in enumerate(frames_THWC):  # one by one, so that long clips take no more memory
        frame_3HW = torch.from_numpy(frame).movedim(-1, 0).float()
        apart_N1HW = (decoded_N3HW - frame_3HW).square().mean(1, keepdim=True)
        around = F.pad(apart_N1HW, (NEIGHBOURHOOD // 2,) * 4, mode="replicate")
        alike_N1HW = (-F.avg_pool2d(around, NEIGHBOURHOOD, 1) / ALIKE**2).exp()
        kept_3HW = (alike_N1HW * lost_N3HW).sum(0) / alike_N1HW.sum(0).clamp(min=1)
        shown_THWC[place] = (frame_3HW + kept_3HW).round().clamp(0, 255).byte().movedim(0, -1).numpy()
    return shown_THWC
