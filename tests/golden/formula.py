"""Clips that a formula makes, in integers alone, so that every machine has the same ones."""

import numpy as np


def formula_clip(frames: int, height: int, width: int, phase: int = 0) -> np.ndarray:
    """Frames (T, H, W, 3) uint8: ramps that drift at a different speed in each colour, and a square that moves."""
    t, y, x = np.meshgrid(np.arange(frames), np.arange(height), np.arange(width), indexing="ij")
    ramps = [5 * x + 3 * y + 4 * t, 2 * x + 6 * y - 6 * t, 3 * x - 4 * y + 9 * t]
    clip = np.stack([(ramp + 37 * phase) % 509 // 2 for ramp in ramps], -1)
    inside = (abs(y - height // 3 - t) < height // 6) & (abs(x - width // 4 - 2 * t) < width // 6)
    clip[inside] = (230, 40 + 10 * phase, 60)
    return clip.astype(np.uint8)
