"""Similarity of a clip to the truth, frame by frame: SSIM, MS-SSIM, and LPIPS where its weights are given.

similarity = load_similarity(lpips_weights=None)
similarity(frames_THW3, shown_THW3)["ssim"]

SSIM and MS-SSIM are those of ssim.py, on each frame in RGB. LPIPS uses a network that the user provides: see lpips.py.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch

from ..core.progress import note
from .lpips import LEAST_SIDE, load_lpips
from .ssim import MS_SSIM_LEAST_SIDE, WINDOW, ms_ssim, ssim

BATCH = 4  # frames at once: a dozen tensors of their size are held

Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Similarity = Callable[[torch.Tensor, torch.Tensor], dict[str, float | None]]


def load_similarity(lpips_weights: Path | None = None, *, device: str | torch.device = "cpu") -> Similarity:
    """Load a function that measures the similarity of a clip to the truth, both (T, H, W, 3) uint8.

    It returns means over the frames: ssim (None below 11 pixels a side), ms_ssim (None below 176) and, only with
    `lpips_weights`, lpips (None below 16, and where the network's features are not finite).

    Raises:
        ReelmError: The weights are refused.
    """
    lpips = None if lpips_weights is None else load_lpips(lpips_weights, device=device)
    measures: dict[str, tuple[Measure, int]] = {"ssim": (ssim, WINDOW), "ms_ssim": (ms_ssim, MS_SSIM_LEAST_SIDE)}
    if lpips is not None:
        measures["lpips"] = (lpips, LEAST_SIDE)

    @torch.no_grad()
    def similarity(frames_THW3: torch.Tensor, shown_THW3: torch.Tensor) -> dict[str, float | None]:
        side = min(frames_THW3.shape[1:3])
        sums = {name: 0.0 for name, (_, least) in measures.items() if side >= least}
        for pair in zip(shown_THW3.split(BATCH), frames_THW3.split(BATCH), strict=True):
            images, others = (part.to(device).float().movedim(-1, 1) for part in pair)
            for name in sums:
                sums[name] += float(measures[name][0](images, others).double().sum())
        values: dict[str, float | None] = dict.fromkeys(measures)
        for name, total in sums.items():
            if math.isfinite(total):
                values[name] = total / len(frames_THW3)
            else:
                note(f"warning: {name}: the network gave features that are not finite; this clip has no {name}")
        return values

    return similarity
