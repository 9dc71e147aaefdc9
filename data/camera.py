"""A virtual camera over a clip: moving crops, so that a few clips show more motions than were filmed.

crop_THW3 = moving_crop(frames_THW3, 128, 128, 1.0, seed, number)

The crop pans and zooms at a constant speed. That is most of what a model has to learn about motion: whatever the
picture shows, what moved by some distance in one frame moves by the same distance in the next.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

ZOOM = 0.01  # standard deviation of the relative change of scale per frame, for a motion of one pixel per frame
FORWARDS, BACKWARDS, STILL = 0.5, 0.25, 0.25  # shares of crops: played forwards, backwards, or one frame repeated


def moving_crop(frames_THW3: torch.Tensor, height: int, width: int, motion: float, *seed: int) -> torch.Tensor:
    """Return a moving crop of a clip, scaled down by a random factor between 1 and the largest that fits the picture.

    Args:
        frames_THW3: The clip, uint8, at least as large as the crop.
        height: The height of the crop in pixels.
        width: The width of the crop in pixels.
        motion: The root mean square speed of the crop along each axis, in pixels of the crop per frame; less where the
            picture is too small for it.
        seed: The integers that determine position, path and playing direction.

    Returns:
        The crop (T, height, width, 3) uint8.
    """
    rng = np.random.default_rng(seed)
    T, *size = frames_THW3.shape[:3]
    direction = rng.choice(3, p=(FORWARDS, BACKWARDS, STILL))
    times = (np.arange(T), np.arange(T)[::-1], np.full(T, rng.integers(T)))[direction]
    scales_T, centres_T2 = _path(rng, T, np.array(size), np.array((height, width)), motion)
    # At least one sample per pixel of the picture: fewer would make fine detail flicker.
    oversampling = math.ceil(scales_T.max() - 1e-6)
    sides_T2 = scales_T[:, None] * (height, width) / size
    theta_T23 = torch.zeros(T, 2, 3)
    for row, axis in ((0, 1), (1, 0)):  # x, y
        theta_T23[:, row, row] = torch.from_numpy(sides_T2[:, axis])
        theta_T23[:, row, 2] = torch.from_numpy(2 * centres_T2[:, axis] / size[axis] - 1)
    crops = []
    for time, theta_123 in zip(times.tolist(), theta_T23.split(1), strict=True):  # one by one: frames may be large
        grid = F.affine_grid(theta_123, [1, 3, oversampling * height, oversampling * width], align_corners=False)
        picture_13HW = frames_THW3[time : time + 1].movedim(-1, 1).float()
        fine_13HW = F.grid_sample(picture_13HW, grid, padding_mode="border", align_corners=False)
        crops.append(F.avg_pool2d(fine_13HW, oversampling).round().byte().movedim(1, -1))
    return torch.cat(crops)


def _path(
    rng: np.random.Generator, T: int, size: np.ndarray, crop: np.ndarray, motion: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the scale (T,), in pixels of the picture per pixel of the crop, and the centre (T, 2) of every frame's crop.

    All crops lie inside the picture.
    """
    max_scale, time_T = (size / crop).min(), np.arange(T) - (T - 1) / 2
    scale = math.exp(rng.uniform(0, math.log(max_scale)))
    # The crop is never larger than the picture, and the picture is never magnified.
    max_rate = min(math.log(scale), math.log(max_scale / scale)) / max(1.0, time_T[-1])
    scales_T = scale * np.exp(np.clip(ZOOM * motion * rng.normal(), -max_rate, max_rate) * time_T)
    # A product of normal variables: mostly slow, and fast now and then.
    speed_2 = motion * rng.normal() * rng.normal(size=2) * scale
    half_T2, path_T2 = scales_T[:, None] * crop / 2, speed_2 * time_T[:, None]
    for _ in range(20):
        low_2, high_2 = (half_T2 - path_T2).max(0), (size - half_T2 - path_T2).min(0)
        path_T2 = np.where(low_2 > high_2, path_T2 / 2, path_T2)  # too long for the picture
    low_2, high_2 = (half_T2 - path_T2).max(0), (size - half_T2 - path_T2).min(0)
    return scales_T, path_T2 + rng.uniform(low_2, np.maximum(low_2, high_2))
