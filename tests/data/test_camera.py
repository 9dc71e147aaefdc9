"""A camera of one's own: it stays in the picture, moves at a constant speed, as fast as it is told."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.data import camera
from reelm.data.camera import BACKWARDS, FORWARDS, STILL, moving_crop
from reelm.data.crops import centre_crop, random_scale_crop
from reelm.tests.examples import examples


def places(frames, height, width):
    """A clip (T, height, width, 3) whose pixels tell their column, row and time."""
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
    clip = np.zeros((frames, height, width, 3), np.uint8)
    clip[..., :2], clip[..., 2] = grid, np.arange(frames)[:, None, None]
    return torch.from_numpy(clip)


@examples(60)
@given(
    st.integers(1, 9), st.integers(8, 24), st.integers(8, 24), st.integers(0, 40), st.integers(0, 40),
    st.sampled_from([0.01, 0.5, 2.0, 64.0]), st.integers(0, 99),
)  # fmt: skip
def test_a_crop_shows_what_lies_in_the_picture_in_order(frames, height, width, taller, wider, motion, seed):
    clip = places(frames, height + taller, width + wider)
    crop = moving_crop(clip, height, width, motion, seed).int()
    assert crop.shape == (frames, height, width, 3)
    # Inside: neither columns nor rows stay the same from pixel to pixel, as they would beyond the border.
    across, down = crop[..., 0].diff(dim=2), crop[..., 1].diff(dim=1)
    assert ((across >= 1) | (across.sum(2, keepdim=True) >= width - 2)).all()
    assert ((down >= 1) | (down.sum(1, keepdim=True) >= height - 2)).all()
    assert (crop[..., 2].amax((1, 2)) == crop[..., 2].amin((1, 2))).all()


def speeds(motion, count=200, frames=9):
    clip, made = places(frames, 200, 250), []
    for seed in range(count):
        crop = moving_crop(clip, 20, 20, motion, seed).float()
        centres_T2 = crop[..., :2].mean((1, 2))
        scale = (crop[frames // 2, 0, -1, 0] - crop[frames // 2, 0, 0, 0]) / 19
        steps_T2 = centres_T2.diff(dim=0)
        assert (steps_T2 - steps_T2.mean(0)).abs().max() < 1.1  # constant, up to rounding
        made.append(steps_T2.mean(0) / scale)
    return torch.stack(made)


def test_it_moves_as_fast_as_it_is_told():
    slow, fast = (speeds(motion).square().mean().sqrt().item() for motion in (0.25, 1.0))
    assert slow == pytest.approx(0.25, rel=0.25)
    assert fast == pytest.approx(1.0, rel=0.25)


def test_paths_are_of_all_kinds_that_there_is_room_for():
    size, crop = np.array((200, 300)), np.array((20, 20))
    made = [camera._path(np.random.default_rng(seed), 9, size, crop, 1.0) for seed in range(600)]
    scales = np.array([scales_T for scales_T, _ in made])
    middles = np.log(scales[:, 4])
    assert 0 <= middles.min() < 0.1 and 2.2 < middles.max() <= np.log(10)
    assert middles.mean() == pytest.approx(np.log(10) / 2, abs=0.1)
    nearing = np.log(scales[:, -1] / scales[:, 0])
    assert 0.4 < (nearing > 0).mean() < 0.6 and np.abs(nearing).max() > 0.15 and scales.min() > 1 - 1e-9
    centres = np.array([centres_T2 for _, centres_T2 in made])
    steps = (centres[:, 1] - centres[:, 0]) / scales[:, 4:5]
    assert abs(np.corrcoef(np.abs(steps).T)[0, 1]) < 0.9 and abs(np.corrcoef(steps.T)[0, 1]) < 0.3
    assert (np.abs(steps) < 0.1).mean() > 0.15  # slow mostly
    near = centres[middles < 0.7, 4]  # crops that have all the room
    assert near.min(0) == pytest.approx((20, 20), abs=12) and near.max(0) == pytest.approx((180, 280), abs=12)


def test_a_crop_that_stands_is_the_mean_of_what_it_shows(monkeypatch):
    monkeypatch.setattr(camera, "_path", lambda *_: (np.full(3, 3.0), np.full((3, 2), (17.0, 20.0))))
    clip = torch.randint(0, 256, (3, 40, 50, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    crop = moving_crop(clip, 10, 12, 1.0, 2)  # which plays forwards
    shown = clip[:, 2:32, 2:38].movedim(-1, 1).float()
    wanted = torch.nn.functional.avg_pool2d(shown, 3).movedim(1, -1)
    assert (crop - wanted).abs().max() <= 0.51


def test_time_goes_on_goes_back_or_stands_still():
    clip = places(9, 40, 40)
    times = np.array([moving_crop(clip, 20, 20, 1.0, seed)[:, 0, 0, 2].numpy() for seed in range(400)]).astype(int)
    on, back, still = ((np.diff(times) == step).all(1).mean() for step in (1, -1, 0))
    assert on + back + still == 1
    assert (on, back, still) == pytest.approx((FORWARDS, BACKWARDS, STILL), abs=0.08)
    assert len(set(times[np.diff(times).sum(1) == 0, 0])) > 5


def test_crops_are_of_any_size_that_there_is_room_for():
    clip = places(2, 60, 100)
    crops = torch.stack([random_scale_crop(clip, 20, 20, seed) for seed in range(200)]).float()
    scales = (crops[:, 0, 10, -1, 0] - crops[:, 0, 10, 0, 0]) / 19
    assert scales.min() < 1.1 and scales.max() > 2.8 and scales.max() < 3.1
    assert scales.log().mean() == pytest.approx(np.log(3) / 2, abs=0.1)
    assert len({tuple(crop[0, 0, 0].tolist()) for crop in crops}) > 150


def test_the_middle_is_the_largest_crop_there_is():
    crop = centre_crop(places(2, 60, 100), 20, 20).float()
    assert crop.shape == (2, 20, 20, 3)
    assert crop[0, 0, :, 0].diff().mean() == pytest.approx(3, abs=0.05)
    assert crop[..., 0].mean() == pytest.approx(49.5, abs=0.6) and crop[..., 1].mean() == pytest.approx(29.5, abs=0.6)
