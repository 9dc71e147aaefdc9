"""The block sizes that were measured: kept by model and machine, chosen by rows, and never in the way."""

import json

import numpy as np
import pytest
import torch

from reelm.bench import block_speeds
from reelm.bench.block_speeds import measure_blocks
from reelm.core.errors import ReelmError
from reelm.generation.block_sizes import BlockSizes, cache_file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REELM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "block-sizes.json"


def test_the_size_is_that_of_the_nearest_number_of_rows(debug_generator, cache):
    sizes = BlockSizes.of(debug_generator.parts)
    assert sizes.best(2) is None
    assert sizes.keep({16: 4, 2: 24}) == cache == cache_file()
    sizes = BlockSizes.of(debug_generator.parts)
    assert [sizes.best(rows) for rows in (1, 2, 4, 6, 16, 500)] == [24, 24, 24, 4, 4, 4]


def test_calls_draw_by_it_and_the_tokens_are_the_same(debug_generator):
    options = {"prompt": "a red ball", "seed": 3, "num_frames": 9}
    before = debug_generator.generate(**options)
    BlockSizes.of(debug_generator.parts).keep({2: 3})
    after = debug_generator.generate(**options)
    assert max(before.stats["accepted"]) > 3 >= max(after.stats["accepted"])
    assert np.array_equal(after.tokens, before.tokens)
    BlockSizes.of(debug_generator.parts).keep({2: 1})
    assert debug_generator.generate(**options).stats["passes"] == after.tokens.size
    assert debug_generator.generate(**options, block_size=5).stats["passes"] < after.tokens.size


def test_what_was_measured_elsewhere_is_left_alone(debug_generator, ordered_generator, cache, monkeypatch):
    BlockSizes.of(debug_generator.parts).keep({2: 3})
    other = BlockSizes.of(ordered_generator.parts)
    assert other.best(2) == (3 if other.key == BlockSizes.of(debug_generator.parts).key else None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    more_threads = BlockSizes.of(debug_generator.parts)
    assert more_threads.best(2) is None
    more_threads.keep({2: 7})
    assert sorted(value["2"] for value in json.loads(cache.read_text()).values()) == [3, 7]


@pytest.mark.parametrize("content", ["{", "[]", '{"KEY": 3}', '{"KEY": {"2": "x", "x": 3, "0": 4, "4": 0, "8": true}}'])
def test_a_damaged_file_measures_nothing(debug_generator, cache, content):
    cache.parent.mkdir()
    cache.write_text(content.replace("KEY", BlockSizes.of(debug_generator.parts).key))
    sizes = BlockSizes.of(debug_generator.parts)
    assert sizes.best(2) is None
    sizes.keep({2: 5})
    assert BlockSizes.of(debug_generator.parts).best(2) == 5


def test_the_fastest_is_kept_and_what_is_far_from_it_measured_once(debug_generator, cache, monkeypatch):
    speeds, drawn = {1: 10.0, 4: 95.0, 8: 100.0, 12: 60.0, 16: 80.0, 24: 50.0, 32: 40.0, 48: 30.0}, []
    generate = type(debug_generator).generate

    def timed(self, *arguments, **options):
        videos = generate(self, *arguments, **options)
        drawn.append(options["block_size"] or 1)
        videos[0].stats["tokens_per_second"] = speeds[drawn[-1]]
        return videos

    monkeypatch.setattr(type(debug_generator), "generate", timed)
    report = measure_blocks(debug_generator, clips=(1,), seconds=0.1, repeats=2)
    assert [entry["block_size"] for entry in report["rows"]] == [4, 8, 16]
    assert [entry["of_the_best"] for entry in report["rows"]] == [0.95, 1.0, 0.8]
    assert drawn == [48, *speeds, 16, 8, 4, 4, 8, 16]
    assert report["best"] == {"2": 8} and report["kept"] == str(cache)
    assert BlockSizes.of(debug_generator.parts).best(2) == 8


def test_a_model_that_is_played_is_measured_as_it_is_played(played_generator, cache):
    report = measure_blocks(played_generator, clips=(1, 2), seconds=1.0, repeats=1, keep=False)
    size = played_generator.parts.lm.layout.frame_size
    for entry in report["rows"]:
        assert 1 <= entry["tokens_per_pass"] <= entry["block_size"]
        if entry["clips"] == 1:
            assert entry["tokens_per_pass"] <= size, "no pass goes on into keys that are not held yet"
    assert {entry["clips"] for entry in report["rows"]} == {1, 2} and not cache.exists()


@pytest.mark.parametrize(("options", "message"), [
    ({"clips": ()}, "clips: must be whole numbers of at least 1"), ({"clips": (0,)}, "clips: must be"),
    ({"repeats": 0}, "repeats: must be at least 1"), ({"seconds": -1.0}, "seconds: must be a number above 0"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused(debug_generator, options, message, monkeypatch):
    monkeypatch.setattr(block_speeds, "_measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(ReelmError, match=message):
        measure_blocks(debug_generator, **options)
