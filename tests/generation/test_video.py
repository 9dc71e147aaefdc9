"""`Video`: round trips with tokens, and metadata that nobody should trust."""

import base64
import copy
import json
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reelm.core.errors import ClipError, ReelmError
from reelm.generation.video import Video, video_metadata
from reelm.media.writer import write_clip
from reelm.tests.examples import examples


def make(**changes):
    rng = np.random.default_rng(0)
    values = {
        "frames": np.tile(rng.integers(0, 256, (9, 1, 1, 3), np.uint8), (1, 32, 24, 1)),
        "fps": 8.0,
        "tokens": rng.integers(0, 1024, (3, 4, 3)),
        "prompt": "a red ball rolls to the right",
        "seed": 7,
        "settings": {"model": "world", "temperature": 0.9, "top_k": None},
        "stats": {"passes": 12},
    }
    return Video(**values | changes)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.gif", "a.webp", "a"])
def test_save_and_load(tmp_path, name):
    video = make()
    assert video.save(tmp_path / name) == tmp_path / name
    loaded = Video.load(tmp_path / name)
    assert loaded.frames.shape == video.frames.shape and loaded.frames.dtype == np.uint8
    assert np.abs(loaded.frames.astype(int) - video.frames).max() <= 6
    assert loaded.tokens.dtype == np.int64 and np.array_equal(loaded.tokens, video.tokens)
    assert (loaded.prompt, loaded.seed, loaded.settings) == (video.prompt, video.seed, video.settings)
    assert (loaded.fps, loaded.stats) == (8.0, {})


@given(
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    largest=st.sampled_from([1, 2**16 - 1, 2**16, 2**32 - 1]),
)
@examples(15)
def test_any_token_ids_survive(tmp_path_factory, grid, largest):
    tokens = np.random.default_rng(0).integers(0, largest, grid, endpoint=True)
    tokens[0, 0, 0] = largest
    path = make(tokens=tokens).save(tmp_path_factory.mktemp("video") / "a.mkv")
    assert np.array_equal(Video.load(path).tokens, tokens)


def test_saved_twice_is_the_same(tmp_path):
    make().save(tmp_path / "a.mkv")
    Video.load(tmp_path / "a.mkv").save(tmp_path / "b.mkv")
    first, second = Video.load(tmp_path / "a.mkv"), Video.load(tmp_path / "b.mkv")
    assert np.array_equal(first.frames, second.frames) and np.array_equal(first.tokens, second.tokens)
    assert video_metadata(first) == video_metadata(second)


def test_settings_that_json_cannot_say_do_not_cost_the_clip(tmp_path):
    odd = {
        "generator": torch.Generator(),
        "p": np.float32(0.5),
        "limit": float("inf"),
        "deep": [(1, 2), {3: float("nan")}],
        "clip": "a reserved key one level down",
    }
    loaded = Video.load(make(settings=odd, seed=np.int64(3)).save(tmp_path / "a.mkv"))
    assert (
        loaded.settings["p"] == 0.5
        and loaded.settings["limit"] is None
        and loaded.settings["deep"]
        == [
            [1, 2],
            {"3": None},
        ]
    )
    assert "Generator" in loaded.settings["generator"] and loaded.seed == 3


def test_foreign_clips_load_without_tokens(tmp_path):
    frames = make().frames
    for metadata in (None, {}, {"prompt": "not ours"}, {"reelm": 1}):
        video = Video.load(write_clip(tmp_path / "a.mkv", frames, 8, metadata=metadata))
        assert video.tokens is None and video.prompt == "" and np.array_equal(video.frames, frames)
    Image.fromarray(frames[0]).save(tmp_path / "a.png")
    assert Video.load(tmp_path / "a.png").frames.shape == (1, 32, 24, 3)
    with pytest.raises(ClipError, match=r"none\.mp4"):
        Video.load(tmp_path / "none.mp4")


def test_variable_rate_is_made_even(tmp_path):
    images = [Image.new("RGB", (8, 8), (value, value, value)) for value in (0, 100, 200)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=[200, 600, 200])
    video = Video.load(tmp_path / "a.gif")
    assert video.fps == pytest.approx(3.0) and video.frames[:, 0, 0, 0].tolist()[:2] == [0, 100]


BOMB = base64.b64encode(zlib.compress(bytes(50_000_000), 9)).decode()


@pytest.mark.parametrize(
    "change",
    [
        {"grid": None},
        {"grid": [3, 4]},
        {"grid": [3, 4, 4]},
        {"grid": [3, 4, -3]},
        {"grid": [3, 4, 3.0]},
        {"grid": [True, 4, 3]},
        {"grid": [2**40, 2**40, 2**40]},
        {"grid": [9, 32, 24]},
        {"grid": "343"},
        {"tokens": None},
        {"tokens": 5},
        {"tokens": ""},
        {"tokens": "not base64!"},
        {"tokens": "é"},
        {"tokens": base64.b64encode(b"no zlib").decode()},
        {"tokens": base64.b64encode(zlib.compress(b"123")).decode()},
        {"tokens": BOMB},
        {"shape": [8, 32, 24]},
        {"shape": None},
    ],
)
def test_tokens_that_do_not_fit_are_dropped(tmp_path, change):
    metadata = video_metadata(make()) | change
    video = Video.load(write_clip(tmp_path / "a.mkv", make().frames, 8, metadata=metadata))
    assert video.tokens is None and video.prompt == make().prompt and video.seed == 7


def test_cut_clip_loses_its_tokens_only(tmp_path):
    video = make()
    loaded = Video.load(write_clip(tmp_path / "a.mp4", video.frames[:5], 8, metadata=video_metadata(video)))
    assert loaded.tokens is None and len(loaded.frames) == 5 and loaded.seed == 7


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


KEYS = ["reelm", "model", "prompt", "seed", "settings", "shape", "fps", "fingerprint", "grid", "tokens"]


@given(key=st.sampled_from(KEYS), value=json_values)
@examples(60)
def test_any_metadata_loads(tmp_path_factory, key, value):
    video = make(frames=make().frames[:3, :8, :8], tokens=np.ones((2, 1, 1)).astype(int))
    metadata = video_metadata(video) | {key: value}
    loaded = Video.load(write_clip(tmp_path_factory.mktemp("video") / "a.mkv", video.frames, 8, metadata=metadata))
    assert isinstance(loaded.prompt, str) and isinstance(loaded.settings, dict)
    assert loaded.seed is None or type(loaded.seed) is int
    assert loaded.tokens is None or loaded.tokens.ndim == 3


def test_metadata_is_json_and_small():
    video = make(tokens=np.random.default_rng(0).integers(0, 64, (60, 8, 8)))
    values = video_metadata(video)
    assert json.loads(json.dumps(values)) == values
    assert list(values) == KEYS
    assert values["grid"] == [60, 8, 8] and values["model"] == "world"
    assert len(values["tokens"]) < 2 * video.tokens.size


def test_to():
    video = make()
    array, tensor, images = video.to("np"), video.to("pt"), video.to("pil")
    assert array.dtype == np.float32 and array.shape == (9, 32, 24, 3)
    assert tensor.dtype == torch.float32 and tensor.shape == (9, 3, 32, 24)
    assert np.array_equal(tensor.permute(0, 2, 3, 1).numpy(), array)
    assert np.array_equal(np.rint(array * 255).astype(np.uint8), video.frames)
    assert array.min() >= 0 and array.max() <= 1
    assert len(images) == 9 and np.array_equal(np.asarray(images[4]), video.frames[4])
    with pytest.raises(ReelmError, match="kind: must be 'np', 'pt' or 'pil', got 'jax'"):
        video.to("jax")


def test_repr_and_seconds():
    video = make()
    assert video.seconds == 1.125
    assert repr(video) == (
        "Video(9 frames 24x32 at 8 fps = 1.125 s, tokens (3, 4, 3), prompt='a red ball rolls to the right', seed=7)"
    )
    assert "no tokens" in repr(make(tokens=None)) and len(repr(make(prompt="x" * 1000))) < 200


def test_tensors_become_arrays():
    video = make(frames=torch.zeros(2, 4, 4, 3, dtype=torch.uint8), tokens=torch.zeros(1, 2, 2, dtype=torch.int32))
    assert isinstance(video.frames, np.ndarray) and video.tokens.dtype == np.int64
    assert copy.copy(video).fps == 8.0


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"frames": np.zeros((2, 4, 4), np.uint8)}, "frames: must be"),
        ({"frames": np.zeros((2, 4, 4, 3), np.float32)}, "frames: must be"),
        ({"frames": np.zeros((0, 4, 4, 3), np.uint8)}, "frames: must be"),
        ({"tokens": np.zeros((2, 4), int)}, "tokens: must be"),
        ({"tokens": np.zeros((2, 4, 4))}, "tokens: must be"),
        ({"fps": 0.0}, "fps: must be"),
        ({"fps": float("nan")}, "fps: must be"),
    ],
)
def test_bad_arguments(change, rule):
    with pytest.raises(ReelmError, match=rule):
        make(**change)
