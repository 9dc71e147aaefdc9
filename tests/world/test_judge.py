import dataclasses

import pytest
import torch
import torch.nn.functional as F

from reelm.core.errors import ReelmError
from reelm.world.judge import ObjectVerdict, Verdict, accuracy, judge
from reelm.world.render import render
from reelm.world.scene import BACKGROUNDS, CAMERAS, MOTIONS, Scene, SceneObject, sample_scene
from reelm.world.textures import background_tiles

FACTORS = ("colour", "shape", "motion", "background", "camera")


def scenes_of(count, *, seed=4, objects=1):
    return [sample_scene(seed, index, split="all", objects=objects) for index in range(count)]


@pytest.fixture(scope="module")
def sample():
    scenes = scenes_of(128)
    clips = render(scenes, 17)
    return scenes, clips, judge(clips)


def blurred_and_noisy(clips):
    """Worse than a tokenizer's reconstruction: blur of about a pixel, noise, and a wrong brightness of each frame."""
    generator = torch.Generator().manual_seed(0)
    frames = clips.float().flatten(0, 1).movedim(-1, 1)
    frames = F.avg_pool2d(F.pad(frames, (2, 2, 2, 2), mode="replicate"), 3, stride=1)
    frames = F.avg_pool2d(frames, 3, stride=1).movedim(1, -1)
    shift = (torch.rand(len(frames), 1, 1, 3, generator=generator) - 0.5) * 16
    frames = frames + 6 * torch.randn(frames.shape, generator=generator) + shift
    return frames.round().clamp(0, 255).to(torch.uint8).view(clips.shape)


def test_judge_is_right_on_rendered_clips(sample):
    scenes, _, verdicts = sample
    measured = accuracy(verdicts, scenes)
    assert min(measured[factor] for factor in FACTORS) >= 0.98, measured


@pytest.mark.slow
@pytest.mark.parametrize(("objects", "bar"), [(1, 0.98), (2, 0.95)])
def test_judge_is_right_on_many_rendered_clips(objects, bar):
    scenes = scenes_of(512, seed=5, objects=objects)
    measured = accuracy(judge(render(scenes, 17), objects=objects), scenes)
    assert min(measured[factor] for factor in FACTORS) >= bar, measured


@pytest.mark.slow
@pytest.mark.parametrize("objects", [1, 2])
def test_judge_is_right_on_blurred_and_noisy_clips(objects):
    scenes = scenes_of(128, seed=6, objects=objects)
    measured = accuracy(judge(blurred_and_noisy(render(scenes, 17)), objects=objects), scenes)
    assert min(measured[factor] for factor in FACTORS) >= 0.95, measured


def test_two_objects_and_other_sizes_are_measured():
    scenes = scenes_of(24, seed=8, objects=2)
    assert accuracy(judge(render(scenes, 17), objects=2), scenes)["all"] >= 0.9
    scenes = scenes_of(12, seed=9)
    for height, width, frames in ((96, 128, 17), (48, 40, 25), (32, 32, 17)):
        clips = render(scenes, frames, height=height, width=width)
        assert accuracy(judge(clips), scenes)["all"] >= 0.75, (height, width, frames)


def test_clips_do_not_fit_other_scenes(sample):
    scenes, _, verdicts = sample
    measured = accuracy(verdicts, scenes[1:] + scenes[:1])
    chance = {"colour": 1 / 8, "shape": 1 / 6, "motion": 1 / 10, "background": 1 / 6, "camera": 0.23}
    for factor, share in chance.items():
        assert abs(measured[factor] - share) < 0.15, factor
    assert measured["all"] < 0.05


def expect(verdicts, motions, cameras):
    """The same verdicts with motions and cameras renamed."""
    return [
        dataclasses.replace(
            verdict,
            camera=cameras.get(verdict.camera, verdict.camera),
            objects=tuple(dataclasses.replace(o, motion=motions.get(o.motion, o.motion)) for o in verdict.objects),
        )
        for verdict in verdicts
    ]


def share_equal(verdicts, expected):
    return sum(a == b for a, b in zip(verdicts, expected, strict=True)) / len(expected)


def both_ways(*pairs):
    return {a: b for first, second in pairs for a, b in ((first, second), (second, first))}


def test_reversed_clips_move_the_other_way(sample):
    _, clips, verdicts = sample
    motions = both_ways(("left", "right"), ("up", "down"), ("grows", "shrinks"))
    cameras = both_ways(("pans left", "pans right"), ("zooms in", "zooms out"))
    assert share_equal(judge(clips[:64].flip(1)), expect(verdicts[:64], motions, cameras)) >= 0.95


def test_mirrored_clips_move_to_the_other_side(sample):
    _, clips, verdicts = sample
    expected = expect(verdicts[:64], both_ways(("left", "right")), both_ways(("pans left", "pans right")))
    assert share_equal(judge(clips[:64].flip(3)), expected) >= 0.95


def test_every_motion_and_camera_is_told_on_every_background():
    things = [SceneObject("small", "cyan", "star", motion, "slowly", 0.0, 0.0, 0.0) for motion in MOTIONS]
    kinds = [(place, camera) for place in BACKGROUNDS for camera in CAMERAS]
    scenes = [Scene((things[i % len(things)],), *kind, 4.0, 8.0) for i, kind in enumerate(kinds)]
    assert accuracy(judge(render(scenes, 17)), scenes)["all"] == 1.0


def test_nothing_is_seen_where_nothing_is():
    generator = torch.Generator().manual_seed(1)
    noise = torch.randint(0, 256, (2, 9, 64, 64, 3), dtype=torch.uint8, generator=generator)
    flat = torch.tensor([[40, 206, 84], [84, 132, 66]], dtype=torch.uint8).view(2, 1, 1, 1, 3).expand(-1, 9, 64, 64, -1)
    for verdict in judge(torch.cat((noise, flat)), objects=1):
        assert verdict.background == "none"
    night = background_tiles()[0, :, 1::2, 1::2].round().to(torch.uint8).movedim(0, -1)
    empty = night.repeat(2, 2, 1).expand(1, 5, 64, 64, 3)
    for objects in (1, 2):
        (verdict,) = judge(empty, objects=objects)
        assert verdict == Verdict((ObjectVerdict("none", "none", "none"),) * objects, "night", "still")
        assert all(thing.colour == "none" for verdict in judge(noise, objects=objects) for thing in verdict.objects)


def test_missing_second_object_is_none():
    (verdict,) = judge(render(scenes_of(1), 9), objects=2)
    assert verdict.objects[0].colour == scenes_of(1)[0].objects[0].colour
    assert verdict.objects[1].colour == "none"


def test_accuracy_matches_objects_in_the_better_order():
    (scene,) = scenes_of(1, objects=2)
    seen = tuple(ObjectVerdict(t.colour, t.shape, t.motion) for t in scene.objects)
    right = Verdict(seen[::-1], scene.background, scene.camera)
    assert accuracy([right], [scene]) == dict.fromkeys((*FACTORS, "all"), 1.0)
    half = dataclasses.replace(right, objects=(dataclasses.replace(seen[1], shape="none"), seen[0]))
    measured = accuracy([right, half], [scene, scene])
    assert (measured["shape"], measured["colour"], measured["all"]) == (0.75, 1.0, 0.5)


def test_refusals():
    clip = torch.zeros(1, 5, 32, 32, 3, dtype=torch.uint8)
    for bad in (clip.float(), clip[0], clip[:, :4], clip[:, :, :31]):
        with pytest.raises(ReelmError, match="frames"):
            judge(bad)
    with pytest.raises(ReelmError, match="objects"):
        judge(clip, objects=3)
    with pytest.raises(ReelmError, match="verdicts"):
        accuracy(judge(clip), scenes_of(1, objects=2))
    with pytest.raises(ReelmError, match="verdicts"):
        accuracy([], [])
    assert judge(clip[:0]) == []
