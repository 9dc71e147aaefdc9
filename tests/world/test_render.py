import dataclasses
import time

import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.world.render import render
from reelm.world.scene import BACKGROUNDS, CAMERAS, MOTIONS, SHAPES, Scene, SceneObject, sample_scene

BALL = SceneObject("small", "red", "ball", "still", "slowly", 0.0, 0.0, 0.0)
SCENE = Scene((BALL,), "night", "still", 0.0, 0.0)


def one(thing=BALL, scene=SCENE, frames=17, **options):
    return render([dataclasses.replace(scene, objects=(thing,))], frames, **options)[0].float()


def redness(frames):
    return (frames[..., 0] - frames[..., 1]).clamp(min=0)


def centre(frames):
    weight = redness(frames)
    y, x = torch.meshgrid(torch.arange(frames.shape[1]), torch.arange(frames.shape[2]), indexing="ij")
    total = weight.sum((1, 2))
    return (weight * x).sum((1, 2)) / total, (weight * y).sum((1, 2)) / total


def test_a_clip_is_the_same_alone_in_a_batch_and_in_parts():
    scenes = [sample_scene(5, index, split="all") for index in range(40)]
    whole = render(scenes, 9)
    assert whole.shape == (40, 9, 64, 64, 3)
    assert whole.dtype == torch.uint8
    for index in (0, 17, 39):
        assert torch.equal(render([scenes[index]], 9)[0], whole[index])
    assert torch.equal(render(scenes, 4, first_frame=5), whole[:, 5:])


@pytest.mark.parametrize(
    ("motion", "dx", "dy"), [("left", -1, 0), ("right", 1, 0), ("up", 0, -1), ("down", 0, 1), ("still", 0, 0)]
)
@pytest.mark.parametrize(("speed", "pixels"), [("slowly", 1.0), ("fast", 2.0)])
def test_straight_motions_have_their_speed(motion, dx, dy, speed, pixels):
    thing = dataclasses.replace(BALL, motion=motion, speed=speed, x=-dx * 8.0, y=-dy * 8.0)
    x, y = centre(one(thing, frames=8))
    assert torch.allclose(x.diff(), torch.full((7,), dx * pixels), atol=0.05)
    assert torch.allclose(y.diff(), torch.full((7,), dy * pixels), atol=0.05)


def test_an_object_that_leaves_comes_back_on_the_other_side():
    thing = dataclasses.replace(BALL, motion="right", speed="fast")
    frames = one(thing, frames=65)
    assert torch.allclose(frames[0], frames[32], atol=1)  # once around: 64 pixels at 2 a frame
    assert torch.allclose(frames[10], frames[42], atol=1)


def test_growing_and_shrinking_change_the_area_and_end():
    grown = redness(one(dataclasses.replace(BALL, motion="grows", speed="fast"), frames=40)).sum((1, 2))
    shrunk = redness(one(dataclasses.replace(BALL, motion="shrinks", speed="fast"), frames=40)).sum((1, 2))
    assert (grown[:17].diff() > 0).all()
    assert (shrunk[:17].diff() < 0).all()
    assert torch.allclose(grown[17:], grown[-1].expand(23))


@pytest.mark.parametrize("motion", MOTIONS)
def test_every_motion_but_stillness_moves_pixels(motion):
    frames = one(dataclasses.replace(BALL, motion=motion))
    assert bool((frames[0] != frames[9]).any()) == (motion != "still")


def test_every_factor_can_be_seen():
    for name, values in (("background", BACKGROUNDS), ("camera", CAMERAS)):
        clips = [render([dataclasses.replace(SCENE, **{name: value})], 9) for value in values]
        assert len({clip.numpy().tobytes() for clip in clips}) == len(values)
    clips = [one(dataclasses.replace(BALL, shape=shape), frames=1) for shape in SHAPES]
    assert len({clip.numpy().tobytes() for clip in clips}) == len(SHAPES)


def test_a_panning_camera_moves_the_background_alone():
    """Two pixels a frame to the right: the background goes left."""
    still = one(frames=5)
    panned = one(scene=dataclasses.replace(SCENE, camera="pans right"), frames=5)
    assert torch.allclose(panned[4][:10, :-8], still[0][:10, 8:], atol=2)
    assert torch.allclose(redness(panned)[:, 20:44, 20:44], redness(still)[:, 20:44, 20:44], atol=40)


def test_size_follows_height_and_width():
    small, large = one(frames=1), one(frames=1, height=128, width=128)
    share = redness(small).sum() / redness(large).sum()
    assert 0.24 < share < 0.26
    assert one(frames=1, height=48, width=80).shape == (1, 48, 80, 3)


def test_wrong_sizes_are_refused_and_nothing_is_empty():
    with pytest.raises(ReelmError, match="num_frames"):
        render([SCENE], 0)
    with pytest.raises(ReelmError, match="height, width"):
        render([SCENE], 1, height=8)
    assert render([], 3).shape == (0, 3, 64, 64, 3)


@pytest.mark.slow
def test_it_renders_300_clips_a_second():
    """On two idle cores; a benchmark, kept out of the suite because a busy machine would fail it."""
    scenes = [sample_scene(1, index) for index in range(512)]
    render(scenes[:32], 17)
    rates = []
    for _ in range(3):
        began = time.perf_counter()
        render(scenes, 17)
        rates.append(512 / (time.perf_counter() - began))
    assert max(rates) >= 300, rates
