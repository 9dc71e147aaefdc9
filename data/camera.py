"""A camera of one's own over a clip, so that a few clips show more motions than their own.

crop_THW3 = moving_crop(frames_THW3, 128, 128, 1.0, seed, number)

The crop travels over the picture and nears it or draws back, at a constant speed. What a model is to learn of motion is
mostly that: what moved by so much moves on by as much, whatever it is a picture of.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

ZOOM = 0.01  # of the scale a frame, for each pixel a frame of motion
FORWARDS, BACKWARDS, STILL = 0.5, 0.25, 0.25  # shares: as it is, from its end, and a single frame of it all the time


def moving_crop(frames_THW3: torch.Tensor, height: int, width: int, motion: float, *seed: int) -> torch.Tensor:
    """A crop that moves, made smaller by a factor from 1 to the largest that leaves room.

    Args:
        frames_THW3: uint8, at least as large as the crop.
        height: of the crop in pixels.
        width: of the crop in pixels.
        motion: how far it moves in pixels of its own a frame, the root mean square of each of two directions; less
            where the picture leaves no room for that.
        seed: what place, path and time follow from.

    Returns:
        (T, height, width, 3) uint8.
    """
    rng = np.random.default_rng(seed)
    T, *size = frames_THW3.shape[:3]
    order = rng.choice(3, p=(FORWARDS, BACKWARDS, STILL))
    times = (np.arange(T), np.arange(T)[::-1], np.full(T, rng.integers(T)))[order]
    scales_T, centres_T2 = _path(rng, T, np.array(size), np.array((height, width)), motion)
    # As many samples a pixel as the picture has pixels there, or what is fine would flicker.
    finer = math.ceil(scales_T.max() - 1e-6)
    sides_T2 = scales_T[:, None] * (height, width) / size
    theta_T23 = torch.zeros(T, 2, 3)
    for row, axis in ((0, 1), (1, 0)):  # x, y
        theta_T23[:, row, row] = torch.from_numpy(sides_T2[:, axis])
        theta_T23[:, row, 2] = torch.from_numpy(2 * centres_T2[:, axis] / size[axis] - 1)
    made = []
    for time, theta_123 in zip(times.tolist(), theta_T23.split(1), strict=True):  # one by one: frames may be large
        grid = F.affine_grid(theta_123, [1, 3, finer * height, finer * width], align_corners=False)
        picture_13HW = frames_THW3[time : time + 1].movedim(-1, 1).float()
        made_13HW = F.grid_sample(picture_13HW, grid, padding_mode="border", align_corners=False)
        made.append(F.avg_pool2d(made_13HW, finer).round().byte().movedim(1, -1))
    return torch.cat(made)


def _path(
    rng: np.random.Generator, T: int, size: np.ndarray, crop: np.ndarray, motion: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the picture for each of the crop (T,), and the crop's centres (T, 2), all of which lie inside."""
    most, time_T = (size / crop).min(), np.arange(T) - (T - 1) / 2
    scale = math.exp(rng.uniform(0, math.log(most)))
    # Never beyond the picture, and never magnified.
    fastest = min(math.log(scale), math.log(most / scale)) / max(1.0, time_T[-1])
    scales_T = scale * np.exp(np.clip(ZOOM * motion * rng.normal(), -fastest, fastest) * time_T)
    # Slow mostly, and fast now and then.
    speed_2 = motion * rng.normal() * rng.normal(size=2) * scale
    half_T2, path_T2 = scales_T[:, None] * crop / 2, speed_2 * time_T[:, None]
    for _ in range(20):
        low_2, high_2 = (half_T2 - path_T2).max(0), (size - half_T2 - path_T2).min(0)
        path_T2 = np.where(low_2 > high_2, path_T2 / 2, path_T2)  # too far for the picture
    low_2, high_2 = (half_T2 - path_T2).max(0), (size - half_T2 - path_T2).min(0)
    return scales_T, path_T2 + rng.uniform(low_2, np.maximum(low_2, high_2))
