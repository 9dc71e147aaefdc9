"""Reading windows at random: the frames of reading in sequence, in any process, and no damage taken for a frame."""

import json
import multiprocessing
import pickle
import random
import shutil
import threading
import time

import av
import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ClipError, ReelmError
from reelm.data.clip_shards import ClipShards
from reelm.data.prepare import prepare
from reelm.data.recode import PrepareConfig
from reelm.media.reader import read_clip
from reelm.media.writer import write_clip
from reelm.tests.examples import examples


@pytest.fixture(scope="module")
def in_sequence(long_shards, tmp_path_factory):
    """All frames of every sample, by reading its mp4 as any player would."""
    shards, folder = ClipShards(long_shards), tmp_path_factory.mktemp("mp4")
    clips = []
    for number, sample in enumerate(shards.samples):
        for tar in sorted(long_shards.glob("*.tar")):
            shutil.unpack_archive(tar, folder, filter="data")
        path = sorted(folder.glob("*.mp4"))[number]
        clips.append(read_clip(path).frames_THW3.numpy())
        assert (len(clips[-1]), read_clip(path).fps) == (sample.frames, sample.fps)
    return clips


@examples(60)
@given(st.data())
def test_a_window_is_what_decoding_in_sequence_gives(long_shards, in_sequence, data):
    shards = ClipShards(long_shards)
    sample = data.draw(st.integers(0, len(shards) - 1))
    frames = shards.samples[sample].frames
    start = data.draw(st.integers(0, frames - 1))
    count = data.draw(st.integers(1, frames - start))
    read = shards.read(sample, start, count)
    assert (read.shape, read.dtype) == ((count, shards.height, shards.width, 3), np.uint8)
    assert np.array_equal(read, in_sequence[sample][start : start + count])


def test_what_is_known_of_a_sample(long_shards):
    shards = ClipShards(long_shards)
    told = [(s.source, s.frames, s.fps, s.captions, s.split) for s in shards.samples]
    assert told == [(f"{n}.mkv", f, 10.0, (f"clip {n}",), "train") for n, f in enumerate((60, 45, 10))]
    assert (len(shards), shards.height, shards.width) == (3, 24, 32)
    assert len(ClipShards(long_shards, "held-out")) == 0


class Counted:
    """A container of PyAV that counts the frames it decodes."""

    decoded = 0

    def __init__(self, container):
        self.container, self.streams, self.seek = container, container.streams, container.seek

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.container.close()

    def decode(self, stream):
        for frame in self.container.decode(stream):
            Counted.decoded += 1
            yield frame


@pytest.mark.parametrize(("start", "count", "decoded"), [(0, 5, 5), (40, 5, 9), (36, 24, 24), (59, 1, 12)])
def test_decoding_begins_at_the_keyframe_and_ends_with_the_window(long_shards, monkeypatch, start, count, decoded):
    true_open, Counted.decoded = av.open, 0
    monkeypatch.setattr(av, "open", lambda *words, **options: Counted(true_open(*words, **options)))
    ClipShards(long_shards).read(0, start, count)
    assert Counted.decoded == decoded  # a keyframe every 12


def _digest(words):
    folder, sample, start = words
    return int(ClipShards(folder).read(sample, start, 7).sum())


def test_threads_forks_and_other_processes_share_shards(long_shards):
    shards = ClipShards(long_shards)
    wanted = [int(shards.read(0, start, 7).sum()) for start in range(0, 50, 5)]
    assert int(pickle.loads(pickle.dumps(shards)).read(0, 5, 7).sum()) == wanted[1]
    found = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: int(shards.read(0, 5 * n, 7).sum())})) for n in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(10)] == wanted
    with multiprocessing.get_context("forkserver").Pool(2) as pool:
        assert pool.map(_digest, [(long_shards, 0, start) for start in range(0, 50, 5)]) == wanted


@pytest.mark.parametrize(
    ("sample", "start", "count", "argument"),
    [(-1, 0, 1, "sample"), (3, 0, 1, "sample"), (2, 0, 0, "count"), (2, -1, 2, "start"), (2, 9, 2, "start")],
)
def test_a_window_outside_is_refused(long_shards, sample, start, count, argument):
    with pytest.raises(ReelmError, match=f"^{argument}: must be"):
        ClipShards(long_shards).read(sample, start, count)


def test_an_unknown_split_is_refused(long_shards):
    with pytest.raises(ReelmError, match=r"^split: must be one of"):
        ClipShards(long_shards, "test")


def _index(change):
    def damage(folder):
        path = folder / "clips-00000.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "shards.json").unlink(),
        lambda folder: (folder / "shards.json").write_text("[]"),
        lambda folder: (folder / "shards.json").write_text('{"format": 1}'),
        lambda folder: (folder / "shards.json").write_text('{"format": 2, "shards": 0}'),
        lambda folder: (folder / "clips-00001.json").unlink(),
        lambda folder: (folder / "clips-00001.tar").unlink(),
        lambda folder: (folder / "clips-00000.tar").write_bytes(b"short"),
        lambda folder: (folder / "clips-00000.json").write_text('{"format": 1, "samples": [{}]}'),
        lambda folder: (folder / "clips-00000.json").write_bytes(b"\xff\xfe"),
        _index(lambda values: values["samples"][0].update(frames=-1)),
        _index(lambda values: values["samples"][0].update(frames="60")),
        _index(lambda values: values["samples"][0].update(captions=[3])),
        _index(lambda values: values["samples"][0].update(split="test")),
        _index(lambda values: values["samples"][0].update(offset=10**9)),
        _index(lambda values: values["samples"][0].update(height=26)),
        _index(lambda values: values["samples"][0].update(unknown=1)),
        _index(lambda values: values.update(samples=None)),
    ],
)
def test_damaged_indexes_are_refused_at_once(long_shards, tmp_path, damage):
    folder = shutil.copytree(long_shards, tmp_path / "shards")
    assert len(ClipShards(folder)) == 3
    damage(folder)
    with pytest.raises(ClipError, match=r"^data: "):
        ClipShards(folder)


@pytest.mark.parametrize("seed", range(8))
def test_no_changed_byte_is_taken_for_a_frame(long_shards, tmp_path, seed):
    folder = shutil.copytree(long_shards, tmp_path / "shards")
    shards, rng = ClipShards(folder), random.Random(seed)
    number = rng.randrange(2)
    sample = shards.samples[number]
    with (folder / "clips-00000.tar").open("r+b") as file:
        place = sample.offset + rng.randrange(sample.size)
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << rng.randrange(8))]))
    with pytest.raises(ClipError, match="must hold the bytes that its index lists for"):
        shards.read(number, rng.randrange(sample.frames - 17), 17)
    assert len(shards.read(1 - number, 0, 17)) == 17


def test_a_sample_that_does_not_decode_is_refused(long_shards, tmp_path):
    """Bytes that the index agrees with, but that are no clip or one of fewer frames."""
    from dataclasses import replace
    from zlib import crc32

    shards = ClipShards(shutil.copytree(long_shards, tmp_path / "shards"))
    with (shards.folder / "clips-00000.tar").open("r+b") as file:
        file.seek(shards.samples[0].offset)
        file.write(bytes(2000))
        file.seek(shards.samples[0].offset)
        crc = crc32(file.read(shards.samples[0].size))
    shards.samples[0] = replace(shards.samples[0], crc32=crc)
    shards.samples[1] = replace(shards.samples[1], frames=50)
    with pytest.raises(ClipError, match="data: shard 0 must decode"):
        shards.read(0, 0, 17)
    with pytest.raises(ClipError, match="data: shard 0 must have frames"):
        shards.read(1, 40, 10)


def _indexed(path, first):
    """Seconds that imageio takes for 17 frames by their index, opening the file once."""
    begin = time.perf_counter()
    with iio.imopen(path, "r", plugin="pyav") as file:
        for index in range(first, first + 17):
            file.read(index=index)
    return time.perf_counter() - begin


@pytest.mark.slow
def test_random_reads_are_five_times_as_fast_as_imageio_s(footage, tmp_path, capsys):
    """Against the files themselves, and against ordinary mp4s of the same few pixels."""
    prepare(footage, tmp_path / "shards", PrepareConfig(held_out_seconds=0, max_frames=1000), workers=0)
    shards, rng = ClipShards(tmp_path / "shards"), random.Random(0)
    picks = [(number, rng.randrange(told.frames - 16)) for number, told in enumerate(shards.samples) for _ in range(3)]
    times = []
    for sample, start in picks:
        told = shards.samples[sample]
        small = tmp_path / f"{sample}.mp4"
        if not small.exists():
            write_clip(small, shards.read(sample, 0, told.frames), told.fps)
        begin = time.perf_counter()
        shards.read(sample, start, 17)
        times.append((time.perf_counter() - begin, _indexed(footage / told.source, start), _indexed(small, start)))
    ours, files, small = 1000 * np.array(times).T
    ratios = np.median(files / ours), np.median(small / ours)
    with capsys.disabled():
        print(
            f"\nrandom 17-frame reads, n = {len(picks)}, medians: {np.median(ours):.1f} ms from shards at 128x128; by "
            f"imageio's index {np.median(files):.0f} ms from the files ({ratios[0]:.0f} times as long) and "
            f"{np.median(small):.0f} ms from mp4s of 128x128 ({ratios[1]:.0f} times)"
        )
    assert min(ratios) >= 5
