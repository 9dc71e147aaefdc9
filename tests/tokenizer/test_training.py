import os
import signal

import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.core.training import TrainConfig
from reelm.tokenizer import training
from reelm.tokenizer.model import TokenizerConfig
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.tokenizer.training import (
    TokenizerTraining,
    moving_pixels,
    reconstruction_loss,
    train_tokenizer,
    training_clips,
)


def recipe(kind="fsq", **changes):
    quantizer = QuantizerConfig(kind=kind, levels=(5, 5), codebook_size=32)
    model = TokenizerConfig(encoder_width=8, decoder_widths=(8, 8), decoder_depth=(1, 1), quantizer=quantizer)
    train = TrainConfig(**({"steps": 6, "warmup": 1, "report_steps": 1} | changes.pop("train", {})))
    return TokenizerTraining(
        **({"model": model, "train": train, "batch_size": 2, "num_frames": 5, "height": 32, "width": 32} | changes)
    )


# The learned codebook counts its codes in buffers: they must come back too.
@pytest.mark.parametrize("kind", ["fsq", "vq"])
def test_a_stopped_and_resumed_run_has_the_same_losses(tmp_path, monkeypatch, kind):
    train_tokenizer(recipe(kind), tmp_path / "whole", device="cpu")
    original = training.training_clips

    def stopping(wanted, step, device):
        if step == 2 and not (tmp_path / "parts" / "state.safetensors").exists():
            os.kill(os.getpid(), signal.SIGTERM)
        return original(wanted, step, device)

    monkeypatch.setattr(training, "training_clips", stopping)
    train_tokenizer(recipe(kind), tmp_path / "parts", device="cpu")
    train_tokenizer(recipe(kind), tmp_path / "parts", device="cpu", resume=True)
    for name in ("metrics.jsonl", "tokenizer.safetensors", "tokenizer.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_training_lowers_the_loss(tmp_path):
    train_tokenizer(recipe(train={"steps": 40, "learning_rate": 5e-3}), tmp_path, device="cpu")
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    import json

    losses = [json.loads(line)["loss"] for line in lines]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_batches_follow_from_seed_and_step():
    cpu = torch.device("cpu")
    assert torch.equal(training_clips(recipe(), 3, cpu), training_clips(recipe(), 3, cpu))
    assert not torch.equal(training_clips(recipe(), 3, cpu), training_clips(recipe(), 4, cpu))
    assert not torch.equal(training_clips(recipe(), 3, cpu), training_clips(recipe(seed=1), 3, cpu))


def test_moving_pixels_weigh_more():
    frames = torch.zeros(1, 3, 8, 8, 3)
    frames[:, 1:, 2, 2] = 1.0
    moving = moving_pixels(frames)
    assert moving.sum() == 2  # frame 0 and frame 1, at that pixel
    still_error, moving_error = frames.clone(), frames.clone()
    still_error[:, 0, 5, 5] += 0.5
    moving_error[:, 0, 2, 2] += 0.5
    assert reconstruction_loss(frames, moving_error, 4.0) > 3.9 * reconstruction_loss(frames, still_error, 4.0)
    assert torch.isclose(reconstruction_loss(frames, moving_error, 1.0), reconstruction_loss(frames, still_error, 1.0))
    assert reconstruction_loss(frames, frames, 4.0) == 0


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"moving_weight": 0.5}])
def test_options_out_of_range_are_refused(change):
    with pytest.raises(ReelmError, match=next(iter(change))):
        recipe(**change)
