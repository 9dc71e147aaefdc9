"""The loader's order: a permutation, the same however it is shared, stopped and resumed."""

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ClipError, ReelmError
from reelm.data.clip_shards import ClipShards
from reelm.data.loader import ClipLoader
from reelm.tests.examples import examples


class Numbered:
    """Shards of one-pixel frames that hold their own sample and place."""

    def __init__(self, lengths):
        self.samples = [SimpleNamespace(frames=frames, captions=(str(n),)) for n, frames in enumerate(lengths)]
        self.lengths = lengths

    def read(self, sample, start, count):
        assert start >= 0 and start + count <= self.lengths[sample]
        frames = np.zeros((count, 1, 2, 3), np.uint8)
        frames[:, 0, 0, 0] = sample % 256
        frames[:, 0, 0, 1] = np.arange(start, start + count) % 256
        return frames


GOLDEN = [
    (0, 1, 8, True),
    (0, 4, 32, False),
    (0, 4, 16, False),
    (0, 0, 0, False),
    (0, 2, 17, True),
    (0, 1, 24, True),
    (0, 4, 48, False),
    (0, 2, 1, True),
    (0, 4, 0, False),
    (1, 4, 0, True),
    (1, 0, 1, False),
    (1, 2, 1, True),
]
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30).filter(lambda lengths: max(lengths) >= 5)


def picks_of(shards, steps, *, world_size=1, start=0, **words):
    """The picks of `steps` batches of all ranks, put together."""
    loaders = [ClipLoader(shards, 8, 5, rank=rank, world_size=world_size, **words) for rank in range(world_size)]
    picks = []
    for step in range(start, start + steps):
        parts = [loader.batch(step).picks for loader in loaders]
        picks += [parts[place % world_size][place // world_size] for place in range(8)]
    for loader in loaders:
        loader.close()
    return picks


@examples(60)
@given(LENGTHS, st.integers(0, 2**63 - 1), st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_has_every_window_once_and_none_overlap(lengths, seed, num_frames, epoch):
    num_frames = min(num_frames, max(lengths))
    loader = ClipLoader(Numbered(lengths), 1, num_frames, seed)
    assert loader.windows == sum(length // num_frames for length in lengths)
    assert loader.left_out == sum(length < num_frames for length in lengths)
    picks = [loader.picks(epoch * loader.windows + place)[0] for place in range(loader.windows)]
    assert {pick.epoch for pick in picks} == {epoch}
    shown = {(pick.sample, pick.start + place) for pick in picks for place in range(num_frames)}
    assert len(shown) == loader.windows * num_frames
    assert all(frame < lengths[sample] for sample, frame in shown)


def test_the_order_and_the_shifts_are_well_mixed():
    loader = ClipLoader(Numbered([29] * 400), 1, 10, seed=3)
    epochs = [[loader.picks(epoch * loader.windows + place)[0] for place in range(800)] for epoch in range(3)]
    orders = [[pick.sample for pick in picks] for picks in epochs]
    assert orders[0] != orders[1] != orders[2]
    # Correlations of 800 draws with their place, and of one epoch with another: within four deviations of nothing.
    assert abs(np.corrcoef(orders[0], np.arange(800))[0, 1]) < 4 / 800**0.5
    assert abs(np.corrcoef(orders[0], orders[1])[0, 1]) < 4 / 800**0.5
    shifts = np.bincount([pick.start % 10 for picks in epochs for pick in picks], minlength=10) / 2
    assert shifts.min() > 120 - 4 * 120**0.5 and shifts.max() < 120 + 4 * 120**0.5
    assert [pick.sample for pick in ClipLoader(Numbered([29] * 400), 1, 10, seed=4).picks(0)] != orders[0][:1]


def test_the_order_never_changes():
    """A stored run must resume under any version of Python, numpy and reelm: these numbers may not change."""
    loader = ClipLoader(Numbered([17, 40, 33, 5, 64]), 4, 16, seed=7, flip=True)
    found = [(p.epoch, p.sample, p.start, p.flipped) for step in range(3) for p in loader.batch(step).picks]
    assert found == GOLDEN


@examples(15)
@given(LENGTHS, st.integers(0, 99), st.sampled_from([1, 2, 8]), st.sampled_from([0, 1, 2, 8]))
def test_the_order_is_the_same_on_any_number_of_workers_and_ranks(lengths, seed, world_size, workers):
    shards = Numbered(lengths)
    wanted = picks_of(shards, 6, seed=seed, flip=True)
    assert picks_of(shards, 6, seed=seed, flip=True, world_size=world_size, workers=workers) == wanted


@examples(30)
@given(LENGTHS, st.lists(st.tuples(st.integers(1, 4), st.sampled_from([1, 2, 4, 8])), min_size=20, max_size=20))
def test_20_restarts_on_other_numbers_of_ranks_lose_and_repeat_nothing(lengths, restarts):
    shards, state, picks = Numbered(lengths), {"epoch": 0, "sample": 0}, []
    for steps, world_size in restarts:
        loaders = [ClipLoader(shards, 8, 5, rank=rank, world_size=world_size) for rank in range(world_size)]
        for loader in loaders:
            loader.load_state_dict(json.loads(json.dumps(state)))
        streams = [iter(loader) for loader in loaders]
        for _ in range(steps):
            parts = [next(stream).picks for stream in streams]
            picks += [parts[place % world_size][place // world_size] for place in range(8)]
        states = [loader.state_dict() for loader in loaders]
        state = states[0]
        assert all(other == state for other in states) and set(state) == {"epoch", "sample"}
    assert picks == picks_of(shards, sum(steps for steps, _ in restarts))
    windows = ClipLoader(shards, 1, 5).windows
    assert (state["epoch"], state["sample"]) == divmod(len(picks), windows)


def test_a_batch_holds_the_frames_and_captions_of_its_picks(long_shards):
    shards = ClipShards(long_shards)
    for workers in (0, 2):
        loader = ClipLoader(shards, 6, 17, seed=1, workers=workers, flip=True)
        flipped = 0
        for step in (0, 1, 2, 9, 3):  # in any order
            batch = loader.batch(step)
            assert (batch.frames_BTHW3.shape, batch.frames_BTHW3.dtype) == ((6, 17, 24, 32, 3), torch.uint8)
            for frames, captions, pick in zip(batch.frames_BTHW3, batch.captions, batch.picks, strict=True):
                wanted = torch.from_numpy(shards.read(pick.sample, pick.start, 17))
                assert torch.equal(frames, wanted.flip(2) if pick.flipped else wanted)
                assert captions == shards.samples[pick.sample].captions
                flipped += pick.flipped
        assert 0 < flipped < 30
        assert loader.left_out == 1  # the clip of 10 frames
        loader.close()
    assert not any(p.flipped for step in range(5) for p in ClipLoader(shards, 6, 17, seed=1).batch(step).picks)


def test_a_mirrored_sample_follows_from_seed_epoch_and_sample():
    loader = ClipLoader(Numbered([50] * 60), 1, 5, seed=2, flip=True)
    sides = {}
    for place in range(3 * loader.windows):
        (pick,) = loader.picks(place)
        sides.setdefault((pick.epoch, pick.sample), set()).add((pick.flipped, pick.start % 5))
    assert all(len(found) == 1 for found in sides.values())
    assert 60 < sum(next(iter(found))[0] for found in sides.values()) < 120


def test_workers_read_ahead_and_pass_errors_on(long_shards):
    shards, read = ClipShards(long_shards), []
    true_read = shards.read
    shards.read = lambda *words: read.append(words) or true_read(*words)
    loader = ClipLoader(shards, 2, 17, workers=1)
    loader.batch(0)
    deadline = time.monotonic() + 20
    while len(read) < 6 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(read) == 6
    loader.batch(1)
    loader.close()
    assert len(read) <= 8
    shards.samples[0] = replace(shards.samples[0], crc32=1)
    loader = ClipLoader(shards, 8, 17, workers=2)
    with pytest.raises(ClipError, match="must hold the bytes"):
        loader.batch(0)
    loader.close()


@pytest.mark.parametrize(
    ("words", "argument"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 3, "world_size": 2}, "batch_size"),
        ({"num_frames": 0}, "num_frames"),
        ({"num_frames": 41}, "num_frames"),
        ({"seed": -1}, "seed"),
        ({"rank": 1}, "rank"),
        ({"rank": -1}, "rank"),
        ({"world_size": 0}, "world_size"),
        ({"workers": -1}, "workers"),
    ],
)
def test_what_a_loader_refuses(words, argument):
    with pytest.raises(ReelmError, match=f"^{argument}: must be"):
        ClipLoader(Numbered([40, 3]), **{"batch_size": 2, "num_frames": 5, **words})


def test_nothing_to_read_and_foreign_states_are_refused():
    with pytest.raises(ReelmError, match=r"^num_frames: must be at most 0"):
        ClipLoader(Numbered([]), 1, 5)
    loader = ClipLoader(Numbered([40]), 2, 5)
    with pytest.raises(ReelmError, match=r"^step: must be at least 0"):
        loader.batch(-1)
    for state in ({}, {"epoch": 0}, {"epoch": 0, "sample": 8}, {"epoch": -1, "sample": 0}, {"epoch": "0", "sample": 0}):
        with pytest.raises(ReelmError, match=r"^state: must have"):
            loader.load_state_dict(state)


TRAINING = """
import json, sys, time
from pathlib import Path
import torch
from reelm.training.loop import train
from reelm.training.state_folders import newest_state
from reelm.training.train_config import TrainConfig
from reelm.data.clip_shards import ClipShards
from reelm.data.loader import ClipLoader

data, out = Path(sys.argv[1]), Path(sys.argv[2])
workers, steps, pause = int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
loader = ClipLoader(ClipShards(data), 4, 9, seed=5, workers=workers, flip=True)
torch.manual_seed(0)
model = torch.nn.Linear(24 * 32 * 3, 4)

def loss(model, step, share):
    batch = loader.batch(step)
    time.sleep(pause)
    with (out / "order.jsonl").open("a") as file:
        picks = [(p.epoch, p.sample, p.start, p.flipped) for p in batch.picks]
        file.write(json.dumps([step, picks]) + "\\n")
    return model(batch.frames_BTHW3[:, 0].flatten(1).float() / 255).square().mean(), {}

config = TrainConfig(steps=steps, warmup=1, checkpoint_minutes=0.1 / 60, report_steps=1)
train(model, loss, config, out, resume=newest_state(out) is not None)
loader.close()
"""


def _lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _training(data, out, workers, steps, more=None):
    """Train in a process of its own; kill it once it has seen so many `more` batches. Whether it came to its end."""
    out.mkdir(exist_ok=True)
    words = [data, out, workers, steps, 0.0 if more is None else 0.01]
    process = subprocess.Popen([sys.executable, "-c", TRAINING, *map(str, words)], stderr=subprocess.PIPE, text=True)
    if more is not None:
        wanted, deadline = _lines(out / "order.jsonl") + more, time.monotonic() + 120
        while process.poll() is None and _lines(out / "order.jsonl") < wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(random.random() * 0.02)
        process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), said
    return process.returncode == 0


def _run(out):
    """The last word on each step: its batch, and its line of metrics."""
    order = dict(json.loads(line) for line in (out / "order.jsonl").read_text().splitlines())
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return order, {line["step"]: (line["loss"], line["norm"]) for line in metrics}


@pytest.mark.slow
def test_20_killed_trainings_see_the_same_clips_and_losses(long_shards, tmp_path):
    steps = 1200
    assert _training(long_shards, tmp_path / "whole", 0, steps)
    rng = random.Random(0)
    for kill in range(20):
        ended = _training(long_shards, tmp_path / "killed", kill % 3, steps, rng.randint(1, 40))
        assert not ended, f"at its end before the last kill ({kill + 1} of 20)"
    assert _training(long_shards, tmp_path / "killed", 2, steps)
    whole, killed = _run(tmp_path / "whole"), _run(tmp_path / "killed")
    assert len(whole[0]) == len(whole[1]) == steps
    assert killed == whole
