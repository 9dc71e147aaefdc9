"""int8 weights and an int8 cache from the outside: what is promised of tokens holds, and each changes something."""

import dataclasses
import functools

import numpy as np
import pytest
import torch

from reelm import VideoGenerator
from reelm.bench.presets import preset_parts
from reelm.bench.sampling import benchmark
from reelm.core.errors import ReelmError
from reelm.generation.session import SessionState
from reelm.lm.quantization import check_machine

TEXTS = ["a red ball moves left", "a blue ring spins over grass", "grass"]
KINDS = [("full", "full"), ("int8", "full"), ("full", "int8"), ("int8", "int8")]


def need(weights):
    try:
        check_machine(weights, "cpu")
    except ReelmError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def load(debug_checkpoint):
    """A generator of a kind, made once."""
    made = {}

    def get(weights, cache):
        need(weights)
        if (weights, cache) not in made:
            made[weights, cache] = VideoGenerator.from_pretrained(
                debug_checkpoint, device="cpu", weights=weights, cache=cache
            )
        return made[weights, cache]

    return get


@pytest.mark.parametrize(("weights", "cache"), KINDS[1:])
def test_jacobi_is_sequential_and_a_clip_is_the_same_alone_and_in_a_batch(load, weights, cache):
    generator = load(weights, cache)
    options = {"seed": [1, 2, 3], "num_frames": [29, 13, 1]}  # the first one's ring wraps
    oracle = generator.generate(TEXTS, decoder="sequential", **options)
    for block_size in (5, 16):
        found = generator.generate(TEXTS, decoder="jacobi", block_size=block_size, **options)
        assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(found, oracle, strict=True))
    for text, seed, frames, wanted in zip(TEXTS, *options.values(), oracle, strict=True):
        assert np.array_equal(generator.generate(text, seed=seed, num_frames=frames).tokens, wanted.tokens)


@pytest.mark.parametrize(("weights", "cache"), KINDS)
def test_saved_and_continued_is_never_stopped(load, weights, cache, tmp_path):
    generator = load(weights, cache)
    for before, scale in ((5, 1.0), (29, 2.5)):
        start = generator.generate(TEXTS[0], seed=7, num_frames=before, guidance_scale=scale)
        longer = generator.continue_clip(start.state.save(tmp_path / "clip.safetensors"), num_frames=12)
        whole = generator.generate(TEXTS[0], seed=7, num_frames=before + 12, guidance_scale=scale)
        assert np.array_equal(longer.tokens, whole.tokens)
        assert start.state.cache["keys"].dtype == (torch.int8 if cache == "int8" else torch.float32)


def test_a_state_of_the_other_precision_is_not_taken(load):
    full, small = load("full", "full"), load("full", "int8")
    for mine, other in ((full, small), (small, full)):
        state = other.generate(TEXTS[0], seed=3, num_frames=9, guidance_scale=1.0).state
        assert other.parts.lm.make_cache(1).accepts(1, state.cache)
        assert not mine.parts.lm.make_cache(1).accepts(1, state.cache)
        wanted = mine.continue_clip(dataclasses.replace(state, cache={}), num_frames=8)
        assert np.array_equal(mine.continue_clip(state, num_frames=8).tokens, wanted.tokens)


def test_a_state_without_its_scales_is_not_taken(load, tmp_path):
    generator = load("full", "int8")
    state = generator.generate(TEXTS[0], seed=3, num_frames=1).state
    assert set(state.cache) == {"keys", "values", "prefix_lengths", "key_scales", "value_scales"}
    cache = {name: tensor for name, tensor in state.cache.items() if name != "key_scales"}
    path = dataclasses.replace(state, cache=cache).save(tmp_path / "a.safetensors")
    wanted = generator.continue_clip(dataclasses.replace(state, cache={}), num_frames=8)
    assert np.array_equal(generator.continue_clip(SessionState.load(path), num_frames=8).tokens, wanted.tokens)


def test_each_option_changes_the_numbers_and_little(load):
    clip = load("full", "full").generate(TEXTS[0], seed=1, num_frames=13)
    nats = {}
    for kinds in KINDS:
        try:
            nats[kinds] = load(*kinds).score(clip, TEXTS[0]).nats_thw
        except pytest.skip.Exception:
            continue
    plain = nats.pop(("full", "full"))
    assert nats
    for found in nats.values():
        assert 1e-5 < np.abs(found - plain).mean() < 0.1 * plain.mean()
    assert len({found.tobytes() for found in nats.values()}) == len(nats)


def test_a_model_reports_its_precisions_and_counts_all_its_parameters(load):
    full, both = load("full", "full").parts, load("int8", "int8").parts
    assert (full.lm.numerics.precisions, both.lm.numerics.precisions) == (
        {"weights": "full", "cache": "full"},
        {"weights": "int8", "cache": "int8"},
    )
    assert full.sizes() == both.sizes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "int4"}, "weights: must be one of full, int8, got 'int4'"),
        ({"cache": "int4"}, "cache: must be one of full, int8, got 'int4'"),
        ({"weights": "int8", "dtype": "bfloat16"}, "weights: must be 'full' on a CPU unless dtype is float32"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_read(options, message, debug_checkpoint, monkeypatch):
    monkeypatch.setattr("reelm.lm.loading.load_weights", lambda *_: pytest.fail("read"))
    with pytest.raises(ReelmError, match=f"^{message}"):
        VideoGenerator.from_pretrained(debug_checkpoint, device="cpu", **options)
    with pytest.raises(ReelmError, match=f"^{message}"):
        preset_parts("cosmos-4b", device="cpu", check=True, **options)


@pytest.fixture(scope="module")
def measured(load):
    """The report on a generator of a kind, made once."""
    return functools.cache(lambda weights, cache: benchmark(load(weights, cache), check=True, baselines=False))


@pytest.mark.parametrize(("weights", "cache"), KINDS[1:])
def test_a_benchmark_holds_them_to_what_they_are(measured, weights, cache):
    full, report = measured("full", "full"), measured(weights, cache)
    assert (report["weights"], report["cache"]) == (weights, cache)
    assert [(row["ok"], row["mismatching_tokens"]) for row in report["rows"]] == [(True, 0)] * 3
    assert report["bytes_per_pass"] < full["bytes_per_pass"]
