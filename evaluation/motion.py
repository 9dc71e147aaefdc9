"""How far the scene moves from picture to picture, measured from pixels.

    moved_P2, other_P = scroll(pictures_THW3)       # P = T - 1 pairs: (right, down) in pixels; whether it is no scroll

Every shift of a few pixels is tried, and that is taken under which a picture looks most like the one before (block
matching with one block, the whole picture). What differs much anyway, such as a sprite that stays in the middle, counts
up to a limit only, so that the scene decides.
"""

import itertools

import numpy as np

REACH = 8  # the largest shift that is tried, in pixels
LIMIT = 48  # levels: differences above it count as much as this
PER_PIXEL = 0.02  # levels: what a pixel of shift must gain, so that plain and periodic pictures count as still
# Of 5,748 pairs of plays of three games 27 are other scenes so; of those that scroll, most have a share of 0.3 to 0.5.
SAME, HARDLY_BETTER = 4.0, 0.7  # levels, and a share of the median over all shifts
PAIRS = 256  # compared at once
LUMA = np.array([299, 587, 114]) / 1000  # of red, green and blue, of Rec. 601


def scroll(pictures_THW3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how far the scene moves from each picture to the next.

    Args:
        pictures_THW3: The pictures, uint8, larger than twice `REACH`.

    Returns:
        The shifts (T - 1, 2) in whole pixels, to the right and down; and whether the second picture is another scene
        (T - 1,), bool: whether the best shift is hardly better than most others are.
    """
    luma_THW = (pictures_THW3 @ LUMA).astype(np.int16)
    parts = [_scroll(luma_THW[first : first + PAIRS + 1]) for first in range(0, len(luma_THW) - 1, PAIRS)]
    if not parts:
        return np.zeros((0, 2)), np.zeros(0, bool)
    moved, other = zip(*parts, strict=True)
    return np.concatenate(moved), np.concatenate(other)


def _scroll(luma_THW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    before, after = luma_THW[:-1], luma_THW[1:]
    shifts = list(itertools.product(range(-REACH, REACH + 1), repeat=2))
    costs = np.stack([_cost(before, after, right, down) for right, down in shifts])
    lengths = np.abs(np.array(shifts)).sum(1)
    best = (costs + PER_PIXEL * lengths[:, None]).argmin(0)
    fit_P = costs[best, np.arange(len(before))]
    other_P = (fit_P > SAME) & (fit_P > HARDLY_BETTER * np.median(costs, 0))
    return np.array(shifts, np.float64)[best], other_P


def _cost(before: np.ndarray, after: np.ndarray, right: int, down: int) -> np.ndarray:
    """Return the mean difference of pairs (P, H, W) where the second is the first, moved right and down."""
    height, width = before.shape[1:]
    first = before[:, max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)]
    second = after[:, max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
    return np.minimum(np.abs(first - second), LIMIT).mean((1, 2))
