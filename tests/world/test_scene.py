import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.world.scene import COLOURS, MOTIONS, SHAPES, is_held_out, sample_scene


@given(
    st.integers(0, 2**31), st.integers(0, 10_000), st.sampled_from(["train", "held-out"]), st.sampled_from([None, 1, 2])
)
def test_scenes_follow_from_seed_and_index_and_keep_to_their_split(seed, index, split, objects):
    scene = sample_scene(seed, index, split=split, objects=objects)
    assert scene == sample_scene(seed, index, split=split, objects=objects)
    assert len(scene.objects) == objects or objects is None
    for thing in scene.objects:
        assert is_held_out(thing.colour, thing.shape, thing.motion) == (split == "held-out")
    if len(scene.objects) == 2:
        first, second = scene.objects
        assert first.colour != second.colour
        assert max(abs(first.x - second.x), abs(first.y - second.y)) >= 22


def test_one_combination_in_eight_is_held_out():
    held = [is_held_out(c, s, m) for c in COLOURS for s in SHAPES for m in MOTIONS]
    assert 0.08 < sum(held) / len(held) < 0.17
    for values, place in ((COLOURS, 0), (SHAPES, 1), (MOTIONS, 2)):  # each single factor is still seen in training
        for value in values:
            seen = [
                not is_held_out(c, s, m) for c in COLOURS for s in SHAPES for m in MOTIONS if (c, s, m)[place] == value
            ]
            assert sum(seen) > 0.6 * len(seen)


def test_most_scenes_have_one_object():
    counts = [len(sample_scene(3, index).objects) for index in range(500)]
    assert 0.7 < counts.count(1) / 500 < 0.95


@pytest.mark.parametrize("options", [{"split": "test"}, {"objects": 3}, {"objects": 0}])
def test_wrong_options_are_refused(options):
    with pytest.raises(ReelmError, match=next(iter(options))):
        sample_scene(1, **options)
