"""Controls at another rate: no tap is lost, turns add up, and at the same rate nothing changes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.controls import ControlTrack
from reelm.data.resampled_controls import resampled_controls
from reelm.media.fitting import frame_count
from reelm.tests.examples import examples

held = st.frozensets(st.sampled_from("wasd"))
turns = st.floats(-100, 100)


@st.composite
def recordings(draw, durations):
    """A track, and the durations of its pictures."""
    lengths = draw(st.lists(durations, min_size=1, max_size=30))
    count = len(lengths)
    keys = draw(st.lists(held, min_size=count, max_size=count))
    return ControlTrack(tuple(keys), {"turn": tuple(draw(st.lists(turns, min_size=count, max_size=count)))}), lengths


def spans(lengths):
    ends = np.cumsum([0, *lengths])
    return np.stack([ends[:-1], ends[1:]], 1)


@examples(200)
@given(recordings(st.integers(1, 9)), st.integers(1, 9))
def test_each_fiftieth_of_a_second_counts_for_the_picture_in_which_it_lies(recording, ticks):
    track, lengths = recording
    fps = 50 / ticks
    count = frame_count(sum(lengths) / 50, fps)
    owners = [old for old, length in enumerate(lengths) for _ in range(length)]
    wanted, totals = [set() for _ in range(count)], [0.0] * count
    for tick, old in enumerate(owners):
        new = min(tick // ticks, count - 1)
        wanted[new] |= track.keys[old]
        totals[new] += track.axes["turn"][old] / lengths[old]
    found = resampled_controls(track, spans(lengths) / 50, fps=fps, count=count)
    assert found.keys == tuple(map(frozenset, wanted))
    assert found.axes["turn"] == pytest.approx(totals, abs=1e-6)


@examples(200)
@given(recordings(st.just(0.0) | st.floats(0, 0.01) | st.floats(0, 2)), st.floats(0.5, 240), st.integers(1, 40))
def test_no_tap_is_lost_and_the_whole_turn_is_kept(recording, fps, count):
    track, lengths = recording
    found = resampled_controls(track, spans(lengths), fps=fps, count=count)
    assert len(found) == count
    assert frozenset().union(*found.keys) == frozenset().union(*track.keys)
    assert sum(found.axes["turn"]) == pytest.approx(sum(track.axes["turn"]), abs=1e-6)


@examples(100)
@given(recordings(st.just(1)), st.sampled_from((8, 24000 / 1001, 25, 30, 60000 / 1001, 120)), st.booleans())
def test_nothing_changes_at_the_same_rate(recording, fps, rounded):
    """Nor where a file rounds the times of its pictures to milliseconds."""
    track, lengths = recording
    spans_T2 = spans(lengths) / fps
    spans_T2 = spans_T2.round(3) if rounded else spans_T2
    assert resampled_controls(track, spans_T2, fps=fps, count=len(track)) == track


def test_half_the_rate_and_twice_the_rate():
    keys = (frozenset("w"), frozenset(), frozenset("a"), frozenset("d"))
    track = ControlTrack(keys, {"turn": (1.0, 2.0, 0.0, -4.0)})
    half = resampled_controls(track, spans([0.125] * 4), fps=4, count=2)
    assert half == ControlTrack((frozenset("w"), frozenset("ad")), {"turn": (3.0, -4.0)})
    double = resampled_controls(track, spans([0.125] * 4), fps=16, count=8)
    assert double.keys == tuple(key for key in keys for _ in range(2))
    assert double.axes["turn"] == (0.5, 0.5, 1, 1, 0, 0, -2, -2)


def test_a_still_has_one_picture():
    track = ControlTrack((frozenset("w"),), {"turn": (2.0,)})
    assert resampled_controls(track, np.zeros((1, 2)), fps=24, count=1) == track
