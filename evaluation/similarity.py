"""Similarity of a clip to the truth, frame by frame: SSIM, MS-SSIM, and LPIPS where its weights are given.

similarity = load_similarity(lpips_weights=None)
similarity(frames_THW3, shown_THW3)["ssim"]

SSIM and MS-SSIM are those of torchmetrics (the `metrics` extra; Wang et al. 2004 and 2003), on each frame in RGB. LPIPS
uses a network that the user provides: see lpips.py.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from ..core.errors import INSTALL, ReelmError
from .lpips import LEAST_SIDE, load_lpips

MS_SSIM_LEAST_SIDE = 176  # pixels: the fifth scale of MS-SSIM must still hold its window of 11
WINDOW = 11  # pixels along a side of the window of SSIM
BATCH = 16  # frames at once

Similarity = Callable[[torch.Tensor, torch.Tensor], dict[str, float | None]]


def load_similarity(lpips_weights: Path | None = None, *, device: str | torch.device = "cpu") -> Similarity:
    """Load a function that measures the similarity of a clip to the truth, both (T, H, W, 3) uint8.

    It returns means over the frames: ssim (None below 11 pixels a side), ms_ssim (None below 176) and, only with
    `lpips_weights`, lpips (None below 16).

    Raises:
        ReelmError: torchmetrics is not installed, or the weights are refused.
    """
    try:
        from torchmetrics.functional.image import (
            multiscale_structural_similarity_index_measure,
            structural_similarity_index_measure,
        )
    except ImportError as error:
        raise ReelmError(f"evaluate: needs torchmetrics: {INSTALL.format('metrics')}") from error
    lpips = None if lpips_weights is None else load_lpips(lpips_weights, device=device)

    @torch.no_grad()
    def similarity(frames_THW3: torch.Tensor, shown_THW3: torch.Tensor) -> dict[str, float | None]:
        side = min(frames_THW3.shape[1:3])
        pairs = [
            [part.float().movedim(-1, 1) for part in pair]
            for pair in zip(shown_THW3.split(BATCH), frames_THW3.split(BATCH), strict=True)
        ]
        values: dict[str, float | None] = {"ssim": None, "ms_ssim": None}
        functions = {"ssim": (structural_similarity_index_measure, WINDOW),
                     "ms_ssim": (multiscale_structural_similarity_index_measure, MS_SSIM_LEAST_SIDE)}  # fmt: skip
        for key, (function, least) in functions.items():
            if side >= least:
                sums = [float(function(*pair, data_range=255.0)) * len(pair[0]) for pair in pairs]  # type: ignore[operator]
                values[key] = sum(sums) / len(frames_THW3)
        if lpips is not None:
            values["lpips"] = None
            if side >= LEAST_SIDE:
                sums = [float(lpips(*(part.to(device) for part in pair)).sum()) for pair in pairs]
                values["lpips"] = sum(sums) / len(frames_THW3)
        return values

    return similarity
