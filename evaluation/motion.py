"""How the scene moves from picture to picture, measured from pixels: to the side, up or down, and nearer.

    moved_P3, fit_P = measure_motion(pictures_THW3)     # P = T - 1 pairs: (right, down, nearer) in pixels
    cuts_P = find_cuts(fit_P)                           # where the second picture is another scene

Every shift of some pixels is tried, and every growth about the middle, and that is taken under which a picture looks
most like the one before (block matching with one block, the whole picture). What differs much anyway, such as a sprite
that stays in the middle, counts up to a limit only, so that the scene decides. Where nothing explains the second
picture, the scene counts as still.
"""

import itertools

import numpy as np

from ..generation.drift import LUMA

SIDE = 64  # larger pictures are brought to about this side, so that pixels are of one size
LEAST_SIDE = 32
REACH = 9  # the largest shift that is tried, in pixels
# How far the middle of an edge of the picture moves out of it, in pixels, as the picture grows.
GROWTHS = (1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 4.5, -4.5, 6.0, -6.0)
LIMIT = 48  # levels: differences above it count as much as this
# Levels: what a pixel of shift and of growth must gain, so that plain and periodic pictures count as still.
PER_PIXEL, PER_GROWTH = 0.02, 0.05
# What nothing explains differs by more levels, and by a larger share of the median over all shifts, than 96% of the
# pairs of games that scroll or are walked through. Of pairs of any two pictures half do where games are walked through,
# and a tenth to a fifth where they scroll and much is black.
UNEXPLAINED_LEVELS, UNEXPLAINED_SHARE = 4.0, 0.8
# A new start of a level differs by this many times as much as nine in ten of the pairs. It was 20 to 30 levels in games
# whose pictures scroll, with 90% below 6.
CUT_TIMES = 2.5
PAIRS = 256  # compared at once


def measure_motion(pictures_THW3: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how far the scene moves from each picture to the next.

    Args:
        pictures_THW3: The pictures, uint8, of at least `LEAST_SIDE` pixels a side.

    Returns:
        The motions (T - 1, 3) to the right, down, and out of the edges as the picture grows, in pixels of pictures
        whose shorter side is brought to `SIDE` or a little more; and the mean difference that is left then (T - 1,), in
        levels from 0 to `LIMIT`.
    """
    luma_THW = _shrunk(pictures_THW3 @ (np.array(LUMA) / 1000)).astype(np.int16)
    parts = [_motion(luma_THW[first : first + PAIRS + 1]) for first in range(0, len(luma_THW) - 1, PAIRS)]
    if not parts:
        return np.zeros((0, 3)), np.zeros(0)
    moved, fits = zip(*parts, strict=True)
    return np.concatenate(moved), np.concatenate(fits)


def find_cuts(fit_P: np.ndarray) -> np.ndarray:
    """Return where a clip goes on with another scene (P,), bool, from what `measure_motion` says of all its pairs."""
    return fit_P > max(UNEXPLAINED_LEVELS, CUT_TIMES * np.quantile(fit_P, 0.9)) if len(fit_P) else fit_P > 0


def _shrunk(luma_THW: np.ndarray) -> np.ndarray:
    """Return pictures whose shorter side is at least `SIDE` and less than twice that, or as they are: block means."""
    times = max(1, min(luma_THW.shape[1:]) // SIDE)
    frames, height, width = (size // step for size, step in zip(luma_THW.shape, (1, times, times), strict=True))
    blocks = luma_THW[:, : height * times, : width * times].reshape(frames, height, times, width, times)
    return blocks.mean((2, 4))


def _motion(luma_THW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    before, after = luma_THW[:-1], luma_THW[1:]
    shifts = list(itertools.product(range(-REACH, REACH + 1), repeat=2))
    costs = [_cost(before, after, right, down) for right, down in shifts]
    median_P, still_P = np.median(costs, 0), costs[shifts.index((0, 0))]
    # A growth is judged on the inside of the picture, and so by what it gains there over standing still.
    inside_P = _growth_cost(before, after, 0.0)
    costs += [still_P + _growth_cost(before, after, growth) - inside_P for growth in GROWTHS]
    moves_N3 = np.array([(right, down, 0.0) for right, down in shifts] + [(0.0, 0.0, growth) for growth in GROWTHS])
    penalty_N = np.abs(moves_N3) @ np.array([PER_PIXEL, PER_PIXEL, PER_GROWTH])
    best_P = (np.stack(costs) + penalty_N[:, None]).argmin(0)
    fit_P = np.stack(costs)[best_P, np.arange(len(before))]
    unexplained_P = (fit_P > UNEXPLAINED_LEVELS) & (fit_P > UNEXPLAINED_SHARE * median_P)
    return np.where(unexplained_P[:, None], 0.0, moves_N3[best_P]), fit_P


def _cost(before: np.ndarray, after: np.ndarray, right: int, down: int) -> np.ndarray:
    """Return the mean difference of pairs (P, H, W) where the second is the first, moved right and down."""
    height, width = before.shape[1:]
    first = before[:, max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)]
    second = after[:, max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
    return np.minimum(np.abs(first - second), LIMIT).mean((1, 2))


def _growth_cost(before: np.ndarray, after: np.ndarray, growth: float) -> np.ndarray:
    """Return the mean difference of pairs (P, H, W), on their inside, where the second is the first, grown."""
    height, width = before.shape[1:]
    scale, margin = np.exp(2 * growth / width), int(np.ceil(max(GROWTHS)))
    rows, columns = (
        np.clip(np.round((np.arange(size) - (size - 1) / 2) / scale + (size - 1) / 2), 0, size - 1).astype(int)
        for size in (height, width)
    )
    inside = (slice(None), slice(margin, height - margin), slice(margin, width - margin))
    grown = before[:, rows[:, None], columns]
    return np.minimum(np.abs(after - grown)[inside], LIMIT).mean((1, 2))
