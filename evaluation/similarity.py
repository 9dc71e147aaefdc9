"""How like the truth a clip is, frame by frame: SSIM, MS-SSIM, and LPIPS where there are weights for it.

likeness = load_likeness(lpips_weights=None)
likeness(frames_THW3, shown_THW3)["ssim"]

SSIM and MS-SSIM are torchmetrics' (the `metrics` extra; Wang et al. 2004 and 2003), of each frame in RGB. LPIPS is by a
network of the user's: see lpips.py.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from ..core.errors import ReelmError
from .lpips import LEAST, load_lpips

AT_LEAST = 176  # pixels along a side: the fifth scale of MS-SSIM must still hold its window of 11
WINDOW = 11  # of SSIM
BATCH = 16  # frames at once

Likeness = Callable[[torch.Tensor, torch.Tensor], dict[str, float | None]]


def load_likeness(lpips_weights: Path | None = None, *, device: str | torch.device = "cpu") -> Likeness:
    """A function of a truth and of what is shown instead, both (T, H, W, 3) uint8: means over the frames.

    Its values are ssim (None below 11 pixels a side), ms_ssim (None below 176), and lpips (None below 16), of which the
    last is there only where `lpips_weights` are.

    Raises:
        ReelmError: torchmetrics is not installed, or the weights are refused.
    """
    try:
        from torchmetrics.functional.image import (
            multiscale_structural_similarity_index_measure,
            structural_similarity_index_measure,
        )
    except ImportError as error:
        raise ReelmError("evaluate: needs torchmetrics: pip install 'reelm[metrics]'") from error
    lpips = None if lpips_weights is None else load_lpips(lpips_weights, device=device)

    @torch.no_grad()
    def likeness(frames_THW3: torch.Tensor, shown_THW3: torch.Tensor) -> dict[str, float | None]:
        side = min(frames_THW3.shape[1:3])
        pairs = [
            [part.float().movedim(-1, 1) for part in pair]
            for pair in zip(shown_THW3.split(BATCH), frames_THW3.split(BATCH), strict=True)
        ]
        values: dict[str, float | None] = {"ssim": None, "ms_ssim": None}
        functions = {"ssim": (structural_similarity_index_measure, WINDOW),
                     "ms_ssim": (multiscale_structural_similarity_index_measure, AT_LEAST)}  # fmt: skip
        for key, (function, least) in functions.items():
            if side >= least:
                sums = [float(function(*pair, data_range=255.0)) * len(pair[0]) for pair in pairs]  # type: ignore[operator]
                values[key] = sum(sums) / len(frames_THW3)
        if lpips is not None:
            values["lpips"] = None
            if side >= LEAST:
                told = [float(lpips(*(part.to(device) for part in pair)).sum()) for pair in pairs]
                values["lpips"] = sum(told) / len(frames_THW3)
        return values

    return likeness
