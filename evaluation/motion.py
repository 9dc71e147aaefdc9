"""How the scene moves from picture to picture, measured from pixels: to the side, up or down, and nearer.

    moved_P3, fit_P = measure_motion(pictures_THW3)     # P = T - 1 pairs: (right, down, nearer) in pixels
    cuts_P = find_cuts(fit_P)                           # where the second picture is another scene

Every shift of some pixels is tried, and every growth about the middle, and that is taken under which a picture looks
most like the one before (block matching with one block, the whole picture). What differs much anyway, such as a sprite
that stays in the middle, counts up to a limit only, so that the scene decides.
"""

import itertools

import numpy as np

REACH = 12  # the largest shift that is tried, in pixels
# How far the middle of an edge of the picture moves out of it, in pixels, as the picture grows.
GROWTHS = (1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 4.5, -4.5, 6.0, -6.0, 8.0, -8.0)
LIMIT = 48  # levels: differences above it count as much as this
# Levels: what a pixel of shift and of growth must gain, so that plain and periodic pictures count as still.
PER_PIXEL, PER_GROWTH = 0.02, 0.05
# A new start of a level fits no motion: by this many levels, and by this many times the difference that nine in ten of
# the pictures have. It was 20 to 30 levels in games whose pictures scroll, with 90% below 6.
CUT_LEVELS, CUT_TIMES = 4.0, 2.5
PAIRS = 256  # compared at once
LUMA = np.array([299, 587, 114]) / 1000  # of red, green and blue, of Rec. 601


def measure_motion(pictures_THW3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how far the scene moves from each picture to the next.

    Args:
        pictures_THW3: The pictures, uint8, larger than twice `REACH`.

    Returns:
        The motions (T - 1, 3) in pixels, to the right, down, and out of the edges as the picture grows; and the mean
        difference that is left then (T - 1,), in levels from 0 to `LIMIT`.
    """
    luma_THW = (pictures_THW3 @ LUMA).astype(np.int16)
    parts = [_motion(luma_THW[first : first + PAIRS + 1]) for first in range(0, len(luma_THW) - 1, PAIRS)]
    if not parts:
        return np.zeros((0, 3)), np.zeros(0)
    moved, fits = zip(*parts, strict=True)
    return np.concatenate(moved), np.concatenate(fits)


def find_cuts(fit_P: np.ndarray) -> np.ndarray:
    """Return where a clip goes on with another scene (P,), bool, from what `measure_motion` says of all its pairs."""
    return fit_P > max(CUT_LEVELS, CUT_TIMES * np.quantile(fit_P, 0.9)) if len(fit_P) else fit_P > 0


def _motion(luma_THW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    before, after = luma_THW[:-1], luma_THW[1:]
    shifts = list(itertools.product(range(-REACH, REACH + 1), repeat=2))
    costs_NP = np.stack(
        [_cost(before, after, right, down) for right, down in shifts]
        + [_growth_cost(before, after, growth) for growth in GROWTHS]
    )
    moves_N3 = np.array([(right, down, 0.0) for right, down in shifts] + [(0.0, 0.0, growth) for growth in GROWTHS])
    penalty_N = np.abs(moves_N3) @ np.array([PER_PIXEL, PER_PIXEL, PER_GROWTH])
    best_P = (costs_NP + penalty_N[:, None]).argmin(0)
    return moves_N3[best_P], costs_NP[best_P, np.arange(len(before))]


def _cost(before: np.ndarray, after: np.ndarray, right: int, down: int) -> np.ndarray:
    """Return the mean difference of pairs (P, H, W) where the second is the first, moved right and down."""
    height, width = before.shape[1:]
    first = before[:, max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)]
    second = after[:, max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
    return np.minimum(np.abs(first - second), LIMIT).mean((1, 2))


def _growth_cost(before: np.ndarray, after: np.ndarray, growth: float) -> np.ndarray:
    """Return the mean difference of pairs (P, H, W) where the second is the first, grown about the middle."""
    height, width = before.shape[1:]
    scale, margin = np.exp(2 * growth / width), int(np.ceil(max(GROWTHS)))
    rows, columns = (
        np.clip(np.round((np.arange(size) - (size - 1) / 2) / scale + (size - 1) / 2), 0, size - 1).astype(int)
        for size in (height, width)
    )
    inner = (slice(None), slice(margin, height - margin), slice(margin, width - margin))
    grown = before[:, rows[:, None], columns]
    return np.minimum(np.abs(after - grown)[inner], LIMIT).mean((1, 2))
