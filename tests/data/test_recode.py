"""One clip to samples: where they are cut, what is held out, and that no broken file does more than be refused."""

import contextlib
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ClipError
from reelm.data.recode import PrepareConfig, _assign_frames, recode
from reelm.data.sources import Source
from reelm.media.writer import write_clip
from reelm.tests.examples import examples


@examples(200)
@given(st.integers(1, 200), st.integers(0, 90), st.integers(1, 60))
def test_frames_are_kept_in_order_and_the_end_is_held_out(total, held_out, max_frames):
    placed = list(_assign_frames((np.array([n]) for n in range(total)), held_out, max_frames))
    assert [int(frame[0]) for _, frame in placed] == list(range(total))
    splits = [split for (split, _), _ in placed]
    ends = min(held_out, total // 2)
    assert splits == ["train"] * (total - ends) + ["held-out"] * ends
    for split in ("train", "held-out"):
        numbers = [number for (kind, number), _ in placed if kind == split]
        assert numbers == [place // max_frames for place in range(len(numbers))]


def test_a_clip_is_read_and_written_as_it_comes(tmp_path, pictures, monkeypatch):
    """Frames that wait are those that may be held out, and the few that are made to fit together."""
    path = write_clip(tmp_path / "a.mkv", pictures(90, 0), 10)
    events = []
    from reelm.data import recode as module

    fitted, writes = module.stream_fitted, module.write_frames

    def watched(*words, **options):
        for frame in fitted(*words, **options):
            events.append(1)
            yield frame

    def counted(path, frames, fps, **options):
        return writes(path, (events.append(-1) or frame for frame in frames), fps, **options)

    monkeypatch.setattr(module, "stream_fitted", watched)
    monkeypatch.setattr(module, "write_frames", counted)
    (tmp_path / "out").mkdir()
    samples, *_ = recode(Source("a.mkv", path), PrepareConfig(height=24, width=32, max_frames=20), tmp_path / "out")
    assert [sample.frames for sample in samples] == [20, 20, 20, 20, 10]
    assert np.cumsum(events).max() <= 11


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif", ".webp", ".png"])
def test_no_mutation_does_more_than_be_refused(tmp_path, pictures, suffix):
    rng = random.Random(suffix)
    whole = write_clip(tmp_path / f"whole{suffix.replace('.png', '.gif')}", pictures(9, 3), 8).read_bytes()
    refused = 0
    for number in range(25):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 20)):
            # Headers lie at the start and at the end of a file.
            place = rng.choice([rng.randrange(min(400, len(data))), rng.randrange(len(data))])
            data[place] = rng.randrange(256)
        path, out = tmp_path / f"{number}{suffix}", tmp_path / str(number)
        path.write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
        out.mkdir()
        try:
            samples, paths, _ = recode(Source(path.name, path), PrepareConfig(height=16, width=16), out)
        except ClipError as error:
            refused += 1
            assert path.name in str(error)
        else:
            assert len(samples) == len(paths) and all(sample.frames > 0 for sample in samples)
        with contextlib.suppress(OSError):
            path.unlink()
    assert refused
