"""The limits on a clip and the metadata that travels in its file."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ClipError, ReelmError
from reelm.media.clip import ClipInfo, ClipLimits, pack_metadata, unpack_metadata
from reelm.tests.examples import examples

INFO = ClipInfo(24.0, 5, 64, 48)
floats = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | floats | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@examples(50)
@given(st.dictionaries(st.text().filter(lambda key: key != "clip"), json_values, max_size=5))
def test_metadata_round_trip(metadata):
    text = pack_metadata(metadata, INFO)
    assert text.isascii()
    assert unpack_metadata(text) == (metadata, INFO)


def test_metadata_may_be_absent():
    assert unpack_metadata(pack_metadata(None, ClipInfo(8.0, None, 2, 2))) == ({}, ClipInfo(8.0, None, 2, 2))


@pytest.mark.parametrize(
    "metadata", [{"clip": 1}, {"value": float("nan")}, {"value": {1, 2}}, {"value": object()}, ["a list"]]
)
def test_metadata_that_json_cannot_say_is_refused(metadata):
    with pytest.raises(ReelmError, match="metadata: "):
        pack_metadata(metadata, INFO)


@pytest.mark.parametrize(
    "text", [None, 7, "", "made with another program", "[1, 2]", "{", b"\xff\xfe", "[" * 100_000, "1" * 10_000, "null"]
)
def test_foreign_or_broken_text_is_no_metadata(text):
    assert unpack_metadata(text) == ({}, None)


@pytest.mark.parametrize(
    "layout",
    [
        None,
        3,
        {},
        {"fps": "24", "frames": 5, "height": 64, "width": 48},
        {"fps": 1e999, "frames": 5, "height": 64, "width": 48},
        {"fps": -1, "frames": 5, "height": 64, "width": 48},
        {"fps": 24, "frames": 0, "height": 64, "width": 48},
        {"fps": 24, "frames": 5, "height": True, "width": 48},
        {"fps": 24, "frames": 5, "height": 10**12, "width": 48},
        {"fps": 24, "frames": 5, "height": 64, "width": 48, "more": 1},
    ],
)
def test_broken_layout_is_left_out_and_the_rest_kept(layout):
    assert unpack_metadata(json.dumps({"seed": 7, "clip": layout})) == ({"seed": 7}, None)


def test_limits_name_the_file_the_rule_and_the_value():
    limits = ClipLimits(max_pixels=100, max_bytes=3000, max_seconds=2.0)
    limits.check(Path("a.mp4"), height=10, width=10, frames=10, seconds=2.0)
    for change, rule in (
        ({"height": 11}, "at most 100 pixels in a frame, got 110 in 'a.mp4'"),
        ({"frames": 11}, "at most 3000 bytes once decoded, got 3300"),
        ({"seconds": 2.1}, "at most 2 seconds, got 2.1"),
        ({"frames": float("nan")}, "bytes once decoded, got nan"),
    ):
        with pytest.raises(ClipError, match=rule):
            limits.check(Path("a.mp4"), **({"height": 10, "width": 10, "frames": 10, "seconds": 1.0} | change))
