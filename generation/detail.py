"""Detail of a given clip, kept in its continuation: what the tokenizer lost of the clip's end is added to what follows.

frames_THW3 = keep_detail(given_THW3, decoded_THW3, frames_THW3)

A tokenizer's reconstruction is softer than the clip. Without this the picture goes soft where the continuation begins,
which is seen as a seam; with it, what stands still stays as it was given. What moves or changes is left as decoded.
"""

import numpy as np
import torch
from torch.nn import functional as F

NEIGHBOURHOOD = 9  # pixels across; over fewer, noise alone tells two frames apart
ALIKE = 8.0  # of 255: the root mean square of a difference that leaves 1/e of the trust


def keep_detail(given_THW3: np.ndarray, decoded_THW3: np.ndarray, frames_THW3: np.ndarray) -> np.ndarray:
    """Add to decoded frames the difference of the last given frames from their reconstruction, where they are alike.

    Each given frame counts by w = exp(-d / ALIKE^2), d the mean squared difference, around a pixel, of its own
    reconstruction from the frame to be shown: sum(w * lost) / max(1, sum(w)). Where several are alike this is their
    mean, without the noise of each; where none is, nothing.

    Args:
        given_THW3: the last frames given, uint8.
        decoded_THW3: the same through the tokenizer.
        frames_THW3: what the tokenizer decodes after them.

    Returns:
        The frames (T, H, W, 3) uint8 to be shown.
    """
    given_T3HW, decoded_T3HW = (torch.from_numpy(part).movedim(-1, 1).float() for part in (given_THW3, decoded_THW3))
    lost_T3HW = given_T3HW - decoded_T3HW
    shown_THW3 = np.empty_like(frames_THW3)
    for place, frame in enumerate(frames_THW3):  # one by one, so that long clips take no more memory
        frame_3HW = torch.from_numpy(frame).movedim(-1, 0).float()
        apart_T1HW = (decoded_T3HW - frame_3HW).square().mean(1, keepdim=True)
        around = F.pad(apart_T1HW, (NEIGHBOURHOOD // 2,) * 4, mode="replicate")
        alike_T1HW = (-F.avg_pool2d(around, NEIGHBOURHOOD, 1) / ALIKE**2).exp()
        kept_3HW = (alike_T1HW * lost_T3HW).sum(0) / alike_T1HW.sum(0).clamp(min=1)
        shown_THW3[place] = (frame_3HW + kept_3HW).round().clamp(0, 255).byte().movedim(0, -1).numpy()
    return shown_THW3
