"""The warping error of a clip: does what is shown move as the truth moves, or does it crawl and flicker on the way?

    errors = warping_errors(truth_THW3, shown_THW3)
    errors["warping_error"], errors["warping_error_of_the_truth"]

As in Lai et al. 2018 (arXiv 1808.00449, section 4.2): the frame before is carried along by the optical flow of the
truth, and compared with the frame that is shown, where the flow can be trusted. Here the error is the mean of squares
of pixel values in [0, 1] over trusted pixels and channels, then over pairs of frames. Flow is trusted where that of the
other direction leads back, by the rule of Ruder et al. 2016 (arXiv 1604.08610), where it stays inside of the picture,
and where it makes the truth's colour to a tenth of the range: what comes into sight has no flow, and is often given its
neighbour's both ways. It is scikit-image's iterative Lucas-Kanade (the `metrics` extra).

The truth's own error is what light, noise and wrong flow make of it. Much above it something crawls; below it detail is
gone: what is blurred is carried along with little error.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..core.errors import ReelmError

MOST_PIXELS = 256  # along the short side: larger frames are made smaller first
MOST_PAIRS = 8  # of frames of a clip, evenly spaced
LEAST_PIXELS = 16  # along a side: a window of the flow is 15 wide
WARPS = 5  # of the flow: ten took longer and came no nearer to a known shift
MOST_OFF = 0.1  # mean of the channels, of the truth where its flow is trusted
LUMA = (0.299, 0.587, 0.114)

Warping = Callable[[torch.Tensor, torch.Tensor], dict[str, float | None]]


def load_warping() -> Warping:
    """A function of a truth and of what is shown instead, both (T, H, W, 3) uint8, that tells the warping error.

    It looks at no more than 8 pairs of neighbouring frames, made smaller to 256 pixels along the short side. Its values
    are warping_error, warping_error_of_the_truth, and warping_trusted, the share of pixels that were compared; None for
    a clip of one frame or with a side below 16 pixels, or where no flow could be trusted.

    Raises:
        ReelmError: scikit-image is not installed.
    """
    try:
        from skimage.registration import optical_flow_ilk
    except ImportError as error:
        raise ReelmError("evaluate: needs scikit-image: pip install 'reelm[metrics]'") from error

    def warping(truth_THW3: torch.Tensor, shown_THW3: torch.Tensor) -> dict[str, float | None]:
        count, height, width, _ = truth_THW3.shape
        pairs = list(range(1, count)) if min(height, width) >= LEAST_PIXELS else []
        if len(pairs) > MOST_PAIRS:
            pairs = [pairs[round(place)] for place in np.linspace(0, len(pairs) - 1, MOST_PAIRS)]
        made, true, trusted = list[float](), list[float](), list[float]()
        for last in pairs:
            ends = slice(last - 1, last + 1)
            errors, share = _pair(_shrink(truth_THW3[ends]), _shrink(shown_THW3[ends]), optical_flow_ilk)
            trusted.append(share)
            if share:
                true.append(errors[0])
                made.append(errors[1])
        mean = {"warping_error": made, "warping_error_of_the_truth": true, "warping_trusted": trusted}
        return {name: float(np.mean(values)) if values else None for name, values in mean.items()}

    return warping


def _shrink(frames_2HW3: torch.Tensor) -> torch.Tensor:
    """(2, 3, h, w) in [0, 1]."""
    frames = frames_2HW3.movedim(-1, 1).float() / 255
    scale = MOST_PIXELS / min(frames.shape[2:])
    if scale >= 1:
        return frames
    size = [round(side * scale) for side in frames.shape[2:]]
    return F.interpolate(frames, size, mode="bilinear", antialias=True, align_corners=False)


def _pair(truth_23HW: torch.Tensor, shown_23HW: torch.Tensor, flow_of: Any) -> tuple[tuple[float, float], float]:
    """The errors of the truth and of what is shown over the trusted pixels, and the share of these."""
    before, now = (truth_23HW * truth_23HW.new_tensor(LUMA)[:, None, None]).sum(1).numpy()
    # Where a pixel of this frame was in the frame before, and the other way round.
    back_2HW, forth_2HW = (
        torch.from_numpy(np.nan_to_num(flow_of(*pair, num_warp=WARPS, dtype=np.float32)))
        for pair in ((now, before), (before, now))
    )
    height, width = now.shape
    rows, columns = torch.arange(height)[:, None] + back_2HW[0], torch.arange(width) + back_2HW[1]
    inside = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
    # grid_sample wants (x, y), from -1 to 1.
    grid_HW2 = torch.stack([2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1], -1)

    def carried(pictures_BHW: torch.Tensor) -> torch.Tensor:
        return F.grid_sample(pictures_BHW[None], grid_HW2[None], padding_mode="border", align_corners=True)[0]

    there_2HW = carried(forth_2HW)
    lengths = back_2HW.square().sum(0) + there_2HW.square().sum(0)
    off_3HW, off_shown_3HW = (clip[1] - carried(clip[0]) for clip in (truth_23HW, shown_23HW))
    leads_back = (back_2HW + there_2HW).square().sum(0) <= 0.01 * lengths + 0.5
    trusted = inside & leads_back & (off_3HW.abs().mean(0) <= MOST_OFF)
    true, made = (float(off.square().mean(0)[trusted].mean()) for off in (off_3HW, off_shown_3HW))
    return (true, made), float(trusted.float().mean())
