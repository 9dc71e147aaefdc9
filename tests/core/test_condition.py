"""Conditions: they say their kind, they are equal by what they hold, and what is none is refused."""

import pytest
import torch

from reelm.core.condition import Embedding, Frames, Text, describe_conditions
from reelm.core.errors import ReelmError

PICTURE = torch.arange(12, dtype=torch.uint8).view(1, 2, 2, 3)


def test_conditions_say_their_kinds():
    conditions = [Text("a red ball"), Frames(PICTURE), Frames(PICTURE, "last"), Embedding(torch.zeros(1, 4))]
    assert describe_conditions(conditions) == ["text", "frames:reference", "frames:last", "embedding"]


def test_conditions_are_equal_by_what_they_hold():
    assert (Text("a"), Frames(PICTURE)) == (Text("a"), Frames(PICTURE.clone()))
    assert Text("a") != Text("b")
    assert Frames(PICTURE) != Frames(PICTURE, "first")
    assert Frames(PICTURE) != Frames(PICTURE + 1)
    assert Embedding(torch.ones(1, 4)) == Embedding(torch.ones(1, 4))
    assert Embedding(torch.ones(1, 4)) != Embedding(torch.ones(4, 1))
    assert Embedding(torch.ones(1, 4)) != Frames(PICTURE)


@pytest.mark.parametrize("frames", [PICTURE[0], PICTURE.float(), PICTURE[..., :2], PICTURE[:0]])
def test_what_is_no_picture_is_refused(frames):
    with pytest.raises(ReelmError, match=r"^frames_THW3: must be \(T, H, W, 3\) uint8"):
        Frames(frames)


def test_other_roles_and_states_are_refused():
    with pytest.raises(ReelmError, match=r"^role: must be one of .*'reference'"):
        Frames(PICTURE, "middle")
    for states in (torch.zeros(4), torch.zeros(1, 4).long(), torch.zeros(0, 4)):
        with pytest.raises(ReelmError, match=r"^states_SD: must be \(S, D\) floating-point"):
            Embedding(states)
