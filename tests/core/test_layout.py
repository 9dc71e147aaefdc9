"""Layouts: what is packed is unpacked, each segment has ids of its own, and what does not fit is refused."""

import itertools
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.core.layout import Compression, FrameLayout, Segment, TokenGrid
from reelm.core.token_order import ORDERS, scan_order
from reelm.tests.examples import examples

VIDEO = Segment(name="video", shape=(3, 5), vocab_size=9)
sizes = st.integers(1, 5)


@st.composite
def layouts(draw):
    """A video in either order, with up to two segments before and after it, given or sampled."""
    shape = (draw(sizes), draw(sizes))
    video = Segment(name="video", shape=shape, vocab_size=draw(st.integers(1, 30)), order=draw(st.sampled_from(ORDERS)))
    others = [
        Segment(
            name=f"other{number}", shape=tuple(draw(st.lists(sizes, min_size=1, max_size=3))),
            vocab_size=draw(st.integers(1, 9)), given=draw(st.booleans()),
        )
        for number in range(draw(st.integers(0, 3)))
    ]  # fmt: skip
    place = draw(st.integers(0, len(others)))
    return FrameLayout((*others[:place], video, *others[place:]))


def random_grids(layout, *leading):
    return {each.name: torch.randint(each.vocab_size, (*leading, *each.shape)) for each in layout.segments}


@examples(60)
@given(layouts(), st.lists(st.integers(0, 3), max_size=2))
def test_unpacking_is_the_inverse_of_packing(layout, leading):
    grids = random_grids(layout, *leading)
    tokens_S = layout.pack(grids)
    assert tokens_S.shape == (*leading, layout.frame_size)
    found = layout.unpack(tokens_S)
    assert list(found) == [each.name for each in layout.segments]
    assert all(torch.equal(found[name], grid) for name, grid in grids.items())
    assert layout.admits(grids)


@examples(60)
@given(layouts())
def test_each_segment_has_ids_of_its_own_and_its_tokens_have_no_others(layout):
    by_id = sorted(layout.segments, key=lambda each: each.given)
    ranges = [range(start := layout.first_id(each.name), start + each.vocab_size) for each in by_id]
    assert list(itertools.chain(*ranges)) == list(range(layout.vocab_size))
    assert layout.sampled_vocab_size == sum(each.vocab_size for each in layout.segments if not each.given)
    sizes_S = [each.vocab_size for each in layout.segments for _ in range(each.size)]
    assert layout.allowed_SV.sum(1).tolist() == sizes_S
    tokens_tS = layout.pack(random_grids(layout, 4))
    assert layout.allowed_SV[torch.arange(layout.frame_size), tokens_tS].all()
    given_S = [each.given for each in layout.segments for _ in range(each.size)]
    assert layout.given_S.tolist() == given_S and layout.has_given == any(given_S)


def test_tokens_are_written_segment_by_segment_and_each_in_its_order():
    layout = FrameLayout((
        Segment(name="keys", shape=(2,), vocab_size=4, given=True),
        Segment(name="video", shape=(4, 4), vocab_size=100, order="coarse"),
        Segment(name="sound", shape=(3,), vocab_size=7),
    ))  # fmt: skip
    video_hw = torch.arange(16).view(4, 4)
    tokens_S = layout.pack({"keys": torch.tensor([3, 1]), "video": video_hw, "sound": torch.tensor([6, 0, 2])})
    assert tokens_S.tolist() == [110, 108, *scan_order(4, 4, "coarse").tolist(), 106, 100, 102]
    assert layout.as_grids(torch.arange(21.0))["sound"].tolist() == [18.0, 19.0, 20.0]
    assert layout["sound"].size == 3 and [each.name for each in layout.others] == ["keys", "sound"]


@pytest.mark.parametrize(("fields", "wanted"), [
    ({"shape": ()}, "^shape: must have sizes of at least 1"),
    ({"shape": (2, 0)}, "^shape: must have sizes of at least 1"),
    ({"vocab_size": 0}, "^vocab_size: must be at least 1"),
    ({"order": "spiral"}, "^order: must be one of raster, coarse"),
    ({"shape": (4,), "order": "coarse"}, "^order: must be 'raster' for a segment that has not two axes"),
    ({"default": 9}, "^default: must be from 0 to 8"),
])  # fmt: skip
def test_segments_that_make_no_sense_are_refused(fields, wanted):
    with pytest.raises(ReelmError, match=wanted):
        Segment(**({"name": "video", "shape": (3, 5), "vocab_size": 9} | fields))


@pytest.mark.parametrize(("segments", "wanted"), [
    ((), "must hold one 'video' of two axes"),
    ((VIDEO, VIDEO), "must have names that differ"),
    ((Segment(name="video", shape=(15,), vocab_size=9),), "must hold one 'video' of two axes"),
    ((Segment(name="video", shape=(3, 5), vocab_size=9, given=True),), "must hold a 'video' that is sampled"),
])  # fmt: skip
def test_layouts_without_one_sampled_video_are_refused(segments, wanted):
    with pytest.raises(ReelmError, match=f"^segments: {wanted}"):
        FrameLayout(segments)


def test_grids_that_do_not_fit_are_refused():
    layout = FrameLayout((VIDEO, Segment(name="sound", shape=(2,), vocab_size=3)))
    video, sound = torch.zeros(4, 3, 5).long(), torch.zeros(4, 2).long()
    with pytest.raises(ReelmError, match=r"^tokens: must have the segments video, sound"):
        layout.pack({"video": video})
    with pytest.raises(ReelmError, match=r"^sound: must have latent frames of \(2,\)"):
        layout.pack({"video": video, "sound": video})
    with pytest.raises(ReelmError, match=r"^segment: must be one of video, sound"):
        layout["keys"]
    assert layout.admits({"video": video, "sound": sound})
    for wrong in (sound + 3, sound - 1, sound[1:], torch.zeros(4, 3).long()):
        assert not layout.admits({"video": video, "sound": wrong})
    assert not layout.admits({"video": video})


@pytest.mark.parametrize("first", [1, 3, 4])
def test_frames_and_latent_frames_where_the_first_latent_frame_has_several(first):
    side = Compression(4, 8, 8, first=first)
    ends = [0] + [first + 4 * n for n in range(5)]  # the frames of so many latent frames
    assert [side.frames(count) for count in range(6)] == ends
    for frames in range(1, ends[-1] + 1):
        held = side.latent_frames(frames)
        assert ends[held - 1] < frames <= ends[held], "no fewer latent frames would hold them"
        assert side.whole(frames) == max(end for end in ends if end <= frames)
        if frames in ends:
            assert side.grid(frames, 16, 8) == TokenGrid(held, 2, 1)
        else:
            with pytest.raises(ReelmError, match=f"^num_frames: must be {re.escape(side.lengths)}, got {frames}$"):
                side.grid(frames, 16, 8)
    with pytest.raises(ReelmError, match=r"^first: must be from 1 to 4"):
        Compression(4, 8, 8, first=5)
