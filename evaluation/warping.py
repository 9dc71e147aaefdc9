"""The warping error of a clip: a measure of how steadily its detail follows the motion of the truth.

    errors = warping_errors(truth_THW3, shown_THW3)
    errors["warping_error"], errors["warping_error_of_the_truth"]

As in Lai et al. 2018 (arXiv 1808.00449, section 4.2), each frame of the clip is compared with the frame before it,
warped by the optical flow of the truth, where the flow can be trusted. Here the error is the mean of squared
differences of pixel values in [0, 1] over trusted pixels and channels, then over pairs of frames. Flow is trusted where
the flow of the opposite direction leads back, by the rule of Ruder et al. 2016 (arXiv 1604.08610), where it stays
inside the picture, and where it predicts the truth's colour to within a tenth of the range: areas that come into sight
have no flow, and often get that of their neighbours in both directions. The flow is scikit-image's iterative
Lucas-Kanade (the `metrics` extra).

The truth has an error of its own, from changes of light, noise and wrong flow. A clip with a much larger error flickers
or crawls; one with a smaller error has lost detail, since blur is warped with little error.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..core.errors import INSTALL, ReelmError

MOST_SIDE = 256  # pixels along the short side; larger frames are scaled down first
MOST_PAIRS = 8  # pairs of frames of a clip, evenly spaced
LEAST_SIDE = 16  # pixels: a window of the flow is 15 wide
WARPS = 5  # iterations of the flow: ten took longer and came no nearer to a known shift
MOST_ERROR = 0.1  # the largest error of the truth, averaged over the channels, where its flow is trusted
LUMA = (0.299, 0.587, 0.114)

Warping = Callable[[torch.Tensor, torch.Tensor], dict[str, float | None]]


def load_warping() -> Warping:
    """Load a function that measures the warping error of a clip against the truth, both (T, H, W, 3) uint8.

    It compares at most 8 pairs of neighbouring frames, scaled down to 256 pixels along the short side. It returns
    warping_error, warping_error_of_the_truth, and warping_trusted, the share of pixels that were compared. These are
    None for a clip of one frame or with a side below 16 pixels; the errors also where no flow could be trusted.

    Raises:
        ReelmError: scikit-image is not installed.
    """
    try:
        from skimage.registration import optical_flow_ilk
    except ImportError as error:
        raise ReelmError(f"evaluate: needs scikit-image: {INSTALL.format('metrics')}") from error

    def warping(truth_THW3: torch.Tensor, shown_THW3: torch.Tensor) -> dict[str, float | None]:
        count, height, width, _ = truth_THW3.shape
        pairs = list(range(1, count)) if min(height, width) >= LEAST_SIDE else []
        if len(pairs) > MOST_PAIRS:
            pairs = [pairs[round(index)] for index in np.linspace(0, len(pairs) - 1, MOST_PAIRS)]
        shown, true, trusted = list[float](), list[float](), list[float]()
        for last in pairs:
            ends = slice(last - 1, last + 1)
            errors, share = _pair(_shrink(truth_THW3[ends]), _shrink(shown_THW3[ends]), optical_flow_ilk)
            trusted.append(share)
            if share:
                true.append(errors[0])
                shown.append(errors[1])
        table = {"warping_error": shown, "warping_error_of_the_truth": true, "warping_trusted": trusted}
        return {name: float(np.mean(values)) if values else None for name, values in table.items()}

    return warping


def _shrink(frames_2HW3: torch.Tensor) -> torch.Tensor:
    """Return a pair of frames as (2, 3, h, w) in [0, 1], at most `MOST_SIDE` pixels along the short side."""
    frames = frames_2HW3.movedim(-1, 1).float() / 255
    scale = MOST_SIDE / min(frames.shape[2:])
    if scale >= 1:
        return frames
    size = [round(side * scale) for side in frames.shape[2:]]
    return F.interpolate(frames, size, mode="bilinear", antialias=True, align_corners=False)


def _pair(truth_23HW: torch.Tensor, shown_23HW: torch.Tensor, flow_of: Any) -> tuple[tuple[float, float], float]:
    """Return the errors of the truth and of the clip over the trusted pixels, and the share of these pixels."""
    before, now = (truth_23HW * truth_23HW.new_tensor(LUMA)[:, None, None]).sum(1).numpy()
    # From each pixel of this frame to where it was in the frame before, and the other way round.
    backward_2HW, forward_2HW = (
        torch.from_numpy(np.nan_to_num(flow_of(*pair, num_warp=WARPS, dtype=np.float32)))
        for pair in ((now, before), (before, now))
    )
    height, width = now.shape
    rows, columns = torch.arange(height)[:, None] + backward_2HW[0], torch.arange(width) + backward_2HW[1]
    inside = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
    # grid_sample takes (x, y) from -1 to 1.
    grid_HW2 = torch.stack([2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1], -1)

    def warp(pictures_BHW: torch.Tensor) -> torch.Tensor:
        return F.grid_sample(pictures_BHW[None], grid_HW2[None], padding_mode="border", align_corners=True)[0]

    warped_2HW = warp(forward_2HW)
    lengths = backward_2HW.square().sum(0) + warped_2HW.square().sum(0)
    true_error_3HW, shown_error_3HW = (clip[1] - warp(clip[0]) for clip in (truth_23HW, shown_23HW))
    leads_back = (backward_2HW + warped_2HW).square().sum(0) <= 0.01 * lengths + 0.5
    trusted = inside & leads_back & (true_error_3HW.abs().mean(0) <= MOST_ERROR)
    true, shown = (float(error.square().mean(0)[trusted].mean()) for error in (true_error_3HW, shown_error_3HW))
    return (true, shown), float(trusted.float().mean())
