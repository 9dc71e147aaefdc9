"""Controls: what is written is read again, tokens and tracks are each other's inverse, and bad names are refused."""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.controls import KEYS, Controller, ControlTrack, check_name, join_tracks, read_written
from reelm.core.errors import ReelmError
from reelm.core.layout import FrameLayout, Segment
from reelm.tests.examples import examples

VIDEO = Segment(name="video", shape=(2, 2), vocab_size=9)
RESERVED = ("none", "keys", "video")
names = st.text(st.characters(exclude_characters=",+-", exclude_categories=("Z", "C")), min_size=1, max_size=32)
names = names.filter(lambda name: name not in RESERVED and not re.search(r"\s", name))
turns = st.floats(-1e6, 1e6)


@st.composite
def tracks(draw, keys=None, axes=(), least=0):
    """A track of the keys and axes, or of any keys."""
    held = draw(st.lists(st.frozensets(st.sampled_from(keys) if keys else names, max_size=3), min_size=least))
    count = len(held)
    values = {name: tuple(draw(st.lists(turns, min_size=count, max_size=count))) for name in axes}
    return ControlTrack(tuple(held), values)


@st.composite
def controlled(draw):
    """A controller of at least one key or axis, and a track that may lack some of its axes."""
    every = draw(st.lists(names, min_size=1, max_size=6, unique=True))
    split = draw(st.integers(0, len(every)))
    keys, axes = tuple(every[:split]), tuple(every[split:])
    limits = tuple(draw(st.lists(st.floats(0.01, 1e4), min_size=len(axes), max_size=len(axes))))
    bins, pictures = draw(st.sampled_from((3, 15, 101))), draw(st.integers(1, 5))
    controller = Controller(keys=keys, axes=axes, limits=limits, bins=bins, pictures=pictures)
    used = draw(st.lists(st.sampled_from(axes), unique=True)) if axes else ()
    held = st.frozensets(st.sampled_from(keys)) if keys else st.just(frozenset())
    count = draw(st.integers(0, 12))
    track = ControlTrack(
        tuple(draw(st.lists(held, min_size=count, max_size=count))),
        {name: tuple(draw(st.lists(turns, min_size=count, max_size=count))) for name in used},
    )
    return controller, track


@examples(200)
@given(tracks(least=1))
def test_what_is_written_is_read_again(track):
    assert read_written(track.written).keys == track.keys
    assert read_written(track.written.replace(",", " , ")).written == track.written


@examples(100)
@given(tracks(keys=("w", "a", "7", "é"), least=1))
def test_single_characters_need_no_plus_where_all_keys_are_such(track):
    short = track.written.replace("+", "")
    assert read_written(short, known=("w", "a", "7", "é")).keys == track.keys
    assert read_written(track.written, known=("w", "a", "7", "é", "jump")).keys == track.keys


def test_the_written_form():
    held = (frozenset("w"),) * 2 + (frozenset({"w", "jump"}),) + (frozenset(),) * 3
    assert ControlTrack(held).written == "w-2,jump+w-1,none-3"
    assert read_written("wj-1", known=("w", "jump")).keys == (frozenset({"wj"}),)


@examples(200)
@given(controlled())
def test_tokens_and_tracks_are_each_others_inverse(case):
    controller, track = case
    tokens = controller.tokens(track, first=False)
    back = controller.track(tokens)
    latent_frames = -(-len(track) // controller.pictures)
    assert len(back) == latent_frames * controller.pictures
    assert back.keys == track.keys + (frozenset(),) * (len(back) - len(track))
    for name, limit in zip(controller.axes, controller.limits, strict=True):
        wanted = [*track.axes.get(name, (0.0,) * len(track)), *(0.0,) * (len(back) - len(track))]
        step = limit / (controller.bins // 2)
        for value, turned in zip(wanted, back.axes[name], strict=True):
            assert abs(turned - min(max(value, -limit), limit)) <= step / 2 * (1 + 1e-9)
    again = controller.tokens(back, first=False)
    assert all(torch.equal(again[name], tokens[name]) for name in tokens)


@examples(100)
@given(controlled())
def test_a_clip_begins_with_a_latent_frame_of_empty_entries(case):
    controller, track = case
    later, whole = controller.tokens(track, first=False), controller.tokens(track, first=True)
    for segment in controller.segments:
        first, *_ = whole[segment.name]
        assert first.tolist() == [segment.default] * controller.pictures
        assert torch.equal(whole[segment.name][1:], later[segment.name])
    rest = controller.track({name: grid[:1] for name, grid in whole.items()})
    assert set(rest.keys) == {frozenset()} and all(value == 0 for values in rest.axes.values() for value in values)
    latent_frames = len(next(iter(whole.values())))
    layout = FrameLayout((*controller.segments, VIDEO))
    assert layout.admits({**whole, "video": torch.zeros(latent_frames, 2, 2).long()})
    assert all(segment.given for segment in layout.others)


@examples(100)
@given(st.lists(tracks(keys=("a", "b"), axes=("x",)), max_size=4), st.lists(tracks(keys=("c",)), max_size=2))
def test_joined_tracks_are_their_parts(first, second):
    parts = [*first, *second]
    joined, start = join_tracks(parts), 0
    assert len(joined) == sum(map(len, parts))
    for part in parts:
        found = joined[start : start + len(part)]
        assert found.keys == part.keys
        assert all(found.axes[name] == part.axes.get(name, (0.0,) * len(part)) for name in joined.axes)
        start += len(part)


@examples(100)
@given(names)
def test_any_word_can_be_a_name(name):
    check_name(name, "keys")
    assert Controller(keys=(name,)).keys == (name,)


@pytest.mark.parametrize(
    "name", [*RESERVED, "", "a b", "a,b", "a+b", "a-b", "\t", "x" * 33, 3, "\x1b[2J", "a\0b", "\u202ea", "\ud800"]
)
def test_what_is_no_name(name):
    rule = "must be names of 1 to 32 characters that print, without blanks and any of , + -"
    with pytest.raises(
        ReelmError, match=f"^axis: {re.escape(rule)}, and not none, keys or video, got {re.escape(repr(name))}$"
    ):
        check_name(name, "axis")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", ""), ("w", "w"), ("w-", "w-"), ("w-0", "w-0"), ("w-2.5", "w-2.5"), ("-3", "-3"), ("w-²", "w-²"),
        ("w-3,", ""), ("w-3, d ,a-2", " d "), ("w-9999999999", "w-9999999999"),
    ],
)  # fmt: skip
def test_what_is_not_written_so_is_refused(text, wrong):
    message = f'held: must be keys and numbers of pictures, such as "w-24,wj-12,none-8", got {wrong!r}'
    with pytest.raises(ReelmError, match=f"^{re.escape(message)}$"):
        read_written(text, "held")


def test_a_track_is_limited_before_it_is_made():
    for text in ("w-1000001", "w-999999,none-2", ",".join(["w-1000000"] * 1000)):
        with pytest.raises(ReelmError, match=r"^held: must be of at most 1000000 pictures"):
            read_written(text, "held")
    with pytest.raises(ReelmError, match="must be keys and numbers of pictures"):
        read_written("w-" + "9" * 5000, "held")


@pytest.mark.parametrize(("text", "wrong"), [("w--2", "w-"), ("w+-2", ""), ("w+none-2", "none"), ("a b-2", "a b")])
def test_names_that_no_key_can_have_are_refused(text, wrong):
    with pytest.raises(ReelmError, match=f"^held: must be names of 1 to 32 characters .*, got {wrong!r}$"):
        read_written(text, "held")


@pytest.mark.parametrize(("options", "message"), [
    ({"keys": ("a", "a")}, "keys, axes: must have names that differ, got ('a', 'a')"),
    ({"keys": ("a",), "axes": ("a",), "limits": (1.0,)}, "keys, axes: must have names that differ, got ('a', 'a')"),
    ({"keys": tuple("abcdefghijk")}, "keys: must be at most 10, got 11"),
    ({"axes": ("x",)}, "limits: must be one for each axis, got ()"),
    ({"axes": ("x",), "limits": (0.0,)}, "limits: must be finite and above 0, got (0.0,)"),
    ({"axes": ("x",), "limits": (math.inf,)}, "limits: must be finite and above 0, got (inf,)"),
    ({"bins": 4}, "bins: must be odd and from 3 to 1025, got 4"),
    ({"bins": 1}, "bins: must be odd and from 3 to 1025, got 1"),
    ({"pictures": 0}, "pictures: must be from 1 to 64, got 0"),
])  # fmt: skip
def test_what_a_controller_may_not_be(options, message):
    with pytest.raises(ReelmError, match=f"^{re.escape(message)}$"):
        Controller(**options)


@pytest.mark.parametrize(("track", "message"), [
    (ControlTrack((frozenset({"jmp"}),)), "keys: must be of w, jump (did you mean 'jump'?), got 'jmp'"),
    (ControlTrack((frozenset({"9"}),)), "keys: must be of w, jump, got '9'"),
    (ControlTrack((frozenset(),), {"turm": (0.0,)}), "keys: must be of turn (did you mean 'turn'?), got 'turm'"),
])  # fmt: skip
def test_unknown_names_are_refused_with_the_nearest(track, message):
    controller = Controller(keys=("w", "jump"), axes=("turn",), limits=(1.0,))
    controller.check(ControlTrack((frozenset({"w", "jump"}),), {"turn": (9.0,)}))
    with pytest.raises(ReelmError, match=f"^{re.escape(message)}$"):
        controller.check(track)
    with pytest.raises(ReelmError, match=r"^keys: must be of nothing, got "):
        Controller().check(track)


@pytest.mark.parametrize(("values", "message"), [
    ((1.0,), "x: must have 2 values, one a picture, got 1"),
    ((1.0, math.nan), "x: must be finite numbers, got 'x'"),
])  # fmt: skip
def test_what_an_axis_may_not_be(values, message):
    with pytest.raises(ReelmError, match=f"^{re.escape(message)}$"):
        ControlTrack((frozenset(),) * 2, {"x": values})


def test_a_controller_is_false_where_it_has_neither_keys_nor_axes():
    assert not Controller() and Controller(keys=("a",)) and Controller(axes=("a",), limits=(1.0,))
    assert [segment.name for segment in Controller(keys=("a",)).segments] == [KEYS]
