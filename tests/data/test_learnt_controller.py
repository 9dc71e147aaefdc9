"""What a data set's keys and axes are, whichever split is read."""

import re

import pytest

from reelm.core.controls import Controller, ControlTrack
from reelm.core.errors import ReelmError
from reelm.data.learnt_controller import learnt_controller
from reelm.data.shard_files import Sample


def sample(keys=(), **axes):
    """A sample of frames of these keys, joined by plus signs, and axes."""
    count = max([len(keys), *map(len, axes.values())])
    held = [frozenset(filter(None, names.split("+"))) for names in keys] or [frozenset()] * count
    return Sample("a.mp4", "train", 0, count, 8.0, 24, 32, (), controls=ControlTrack(tuple(held), axes))


def test_all_samples_tell_of_the_keys_and_axes():
    without = Sample("b.mp4", "train", 0, 9, 8.0, 24, 32, ())
    samples = [sample(["w", "w+jump", ""]), without, sample(["a"], turn=(0.0,)), sample(look=(0.0, 2.0, -2.0))]
    found = learnt_controller(samples, pictures=4)
    assert found == Controller(keys=("a", "jump", "w"), axes=("look", "turn"), limits=(2.0, 1.0), pictures=4)
    assert learnt_controller(reversed(samples), pictures=4) == found
    assert not learnt_controller([without], pictures=4) and not learnt_controller([], pictures=4)


def test_the_limit_leaves_out_the_rarest_jerks_and_pictures_at_rest():
    values = [number / 1000 for number in range(-1000, 1001)]
    found = learnt_controller([sample(x=(*values, *[0.0] * 5000))], pictures=1)
    assert found.limits == pytest.approx((0.995,), abs=1e-3)
    jerk = learnt_controller([sample(x=(1.0,) * 999), sample(x=(-1000.0,))], pictures=1)
    assert jerk.limits == (1.0,)


@pytest.mark.parametrize(("samples", "message"), [
    ([sample(list("abcdef")), sample(list("ghijk"))],
     f"data: must have at most 10 keys in all clips together, got {list('abcdefghijk')}"),
    ([sample(["turn"]), sample(turn=(1.0,))],
     "data: must have keys and axes of different names in all clips together, got ['turn']"),
])  # fmt: skip
def test_what_no_controller_can_have(samples, message):
    with pytest.raises(ReelmError, match=f"^{re.escape(message)}$"):
        learnt_controller(samples, pictures=1)
