"""What a training tells: its speed beside its figures, curves, TensorBoard, and the FLOPs by which it is judged."""

import sys
import types

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reelm.core.log import read_log
from reelm.kernels.attention_reference import ROWS
from reelm.lm.lm_config import LMConfig
from reelm.lm.transformer import VideoTransformer
from reelm.training import speed as speeds
from reelm.training.lm_training import cross_entropy
from reelm.training.speed import Speed, Work, attended_slots, matrix_flops, training_flops
from reelm.training.train_report import TrainReport

CPU = torch.device("cpu")
WORK = Work("tokens", lambda step: 100 * step, lambda step: 2e9)


def test_the_speed_is_that_of_the_steps_since_the_last_report(monkeypatch):
    monkeypatch.setattr(speeds, "peak_flops", lambda device: 4e9)
    speed = Speed(WORK, CPU, processes=2)
    assert speed.figures() == {}
    for step in (1, 2, 3):
        speed.count(step, seconds=0.5)
    wanted = {"steps_per_second": 2.0, "tokens_per_second": 400.0, "flops_per_second": 4e9, "mfu": 0.5}
    assert speed.figures() == wanted and speed.figures() == {}
    monkeypatch.undo()
    plain = Speed(Work("frames", lambda step: 8), CPU, processes=1)
    plain.count(0, seconds=2.0)
    assert plain.figures() == {"steps_per_second": 0.5, "frames_per_second": 4.0}


@pytest.mark.parametrize("order", ["raster", "coarse"])
def test_flops_are_those_that_torch_counts(order):
    config = LMConfig(vocab_size=12, rows=4, columns=4, window=3, text_vocab_size=16, prefix=5, width=16, depth=2,
                      heads=4, kv_heads=2, head_dim=8, hidden=24, neighbour_dim=4, order=order)  # fmt: skip
    tokens, text, lengths = torch.zeros(3, 6, 4, 4).long(), torch.ones(3, 5).long(), torch.full((3,), 5)
    with FlopCounterMode(display=False) as counter:
        cross_entropy(VideoTransformer(config), tokens, text, lengths).backward()
    # The reference computes scores of blocks of queries; the FLOPs of a model are those of pairs that are seen.
    slots = attended_slots(config, 6, ROWS // config.frame_size * config.frame_size)
    per_slot = 3 * 4 * config.depth * config.heads * config.head_dim * 3
    assert counter.get_total_flops() == matrix_flops(config, 3, 6) + per_slot * slots
    seen = sum(1 + 5 + position - max(0, position // 16 - 2) * 16 for position in range(6 * 16))
    assert training_flops(config, 3, 6) == matrix_flops(config, 3, 6) + per_slot * (seen + 5**2)


def test_a_run_that_goes_on_tells_later_steps_anew(tmp_path, monkeypatch):
    told = []

    class Writer:
        def __init__(self, folder, purge_step):
            told.append((folder, purge_step))

        def add_scalar(self, name, figure, step):
            told.append((name, figure, step))

        def flush(self):
            flushed.append(len(told))

    flushed = []
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=Writer))
    report = TrainReport(tmp_path, 0, Speed(WORK, CPU, 1))
    for step in (1, 2):
        report.count(step, 0.5)
        report.add(step, {"loss": 3.0 / step})
    report = TrainReport(tmp_path, 1, Speed(WORK, CPU, 1))
    report.add(2, {"loss": 1.25})
    report.draw()
    assert read_log(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 1.25}]
    assert [entry["step"] for entry in read_log(tmp_path / "speed.jsonl")] == [1]
    assert told[0] == (str(tmp_path / "tensorboard"), 1) and ("loss", 3.0, 1) in told
    assert ("tokens_per_second", 200.0, 1) in told and told[-2:] == [
        (str(tmp_path / "tensorboard"), 2),
        ("loss", 1.25, 2),
    ]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert flushed == [len(told)]
    silent = TrainReport(tmp_path / "other", 0, Speed(WORK, CPU, 1), first=False)
    silent.add(1, {"loss": 1.0})
    silent.draw()
    assert not (tmp_path / "other").exists()
