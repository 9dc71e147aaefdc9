import json
import os
import signal

import pytest
import torch
from PIL import Image

from reelm.core.errors import ReelmError
from reelm.tokenizer.codec_files import load_tokenizer
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.tokenizer.tokenizer_config import TokenizerConfig
from reelm.training import tokenizer_training as training
from reelm.training.losses import moving_pixels, reconstruction_loss, structure_loss
from reelm.training.ranks import WHOLE_BATCH
from reelm.training.state_folders import newest_state
from reelm.training.tokenizer_training import (
    TokenizerTraining,
    TrainingClips,
    train_tokenizer,
    training_clips,
)
from reelm.training.train_config import TrainConfig


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

    def stopping(wanted, step, device, share):
        if step == 2 and not newest_state(tmp_path / "parts"):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(wanted, step, device, share)

    monkeypatch.setattr(training, "training_clips", stopping)
    train_tokenizer(recipe(kind), tmp_path / "parts", device="cpu")
    train_tokenizer(recipe(kind), tmp_path / "parts", device="cpu", resume=True)
    for name in ("metrics.jsonl", "tokenizer.safetensors", "tokenizer.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_training_lowers_the_loss(tmp_path):
    train_tokenizer(recipe(train={"steps": 40, "learning_rate": 5e-3}), tmp_path, device="cpu")
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_batches_follow_from_seed_and_step():
    cpu = torch.device("cpu")
    assert torch.equal(training_clips(recipe(), 3, cpu), training_clips(recipe(), 3, cpu))
    assert not torch.equal(training_clips(recipe(), 3, cpu), training_clips(recipe(), 4, cpu))
    assert not torch.equal(training_clips(recipe(), 3, cpu), training_clips(recipe(seed=1), 3, cpu))


def noise_clips(size=32):
    """A training's own clips: they follow from the step, and one is held out."""
    noise = torch.Generator()

    def batch(step, share=WHOLE_BATCH):
        clips_BTHW3 = torch.randint(256, (2, 5, size, size, 3), generator=noise.manual_seed(step), dtype=torch.uint8)
        return share.of(clips_BTHW3)

    return TrainingClips(batch=batch, held_out=[("a.mp4", batch(1000)[0]), ("b.mp4", batch(1001)[0])])


@pytest.mark.parametrize("kind", ["fsq", "vq"])
def test_a_run_on_own_clips_resumes_to_the_bit_and_ends_with_a_tokenizer(tmp_path, kind):
    clips, parts = noise_clips(), tmp_path / "parts"
    whole = train_tokenizer(recipe(kind), tmp_path / "whole", clips=clips, device="cpu")

    def stopping(step, share):
        if step == 2 and not newest_state(parts):
            os.kill(os.getpid(), signal.SIGTERM)
        return clips.batch(step, share)

    stopped = TrainingClips(batch=stopping, held_out=clips.held_out)
    train_tokenizer(recipe(kind), parts, clips=stopped, device="cpu")
    assert json.loads((parts / "held-out.json").read_text())["step"] == 3
    train_tokenizer(recipe(kind), parts, clips=stopped, device="cpu", resume=True)
    names = ("metrics.jsonl", "tokenizer.safetensors", "tokenizer.json", "held-out.json", "reconstructions.png")
    for name in names:
        assert (parts / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    frames = clips.batch(7)
    loaded = load_tokenizer(parts, device="cpu")
    assert torch.equal(loaded.encode(frames), whole.encode(frames))


def test_what_is_held_out_is_told_and_shown(tmp_path):
    clips = noise_clips()
    model = train_tokenizer(recipe(train={"steps": 2}), tmp_path, clips=clips, device="cpu")
    figures = json.loads((tmp_path / "held-out.json").read_text())
    assert [clip["name"] for clip in figures["clips"]] == ["a.mp4", "b.mp4"]
    assert figures["tokens"] == 2 * 2 * 4 * 4
    with torch.no_grad():
        for (_, frames), told in zip(clips.held_out, figures["clips"], strict=True):
            shown = (model.decode(model.encode(frames[None]))[0].clamp(0, 1) * 255).round()
            error = ((shown - frames.float()) / 255).square().mean((1, 2, 3))
            assert told["psnr"] == pytest.approx(float((-10 * error.log10()).mean()), abs=2e-3)
        tokens = torch.cat([model.encode(frames[None]).flatten() for _, frames in clips.held_out])
    assert figures["psnr"] == pytest.approx(sum(clip["psnr"] for clip in figures["clips"]) / 2, abs=2e-3)
    assert figures["codebook_use"] == pytest.approx(tokens.unique().numel() / 25, abs=1e-4)
    shares = torch.bincount(tokens) / len(tokens)
    assert figures["perplexity"] == pytest.approx(float(torch.special.entr(shares).sum().exp()), abs=0.06)
    with Image.open(tmp_path / "reconstructions.png") as sheet:
        assert sheet.size == (2 * 5 * 32, 2 * 2 * 3 * 32)


@pytest.mark.parametrize(("weight", "kept"), [(0.0, 4), (0.5, 6)])
def test_the_best_checkpoint_is_the_tokenizer_unless_a_loss_trades_its_figure(tmp_path, monkeypatch, weight, kept):
    """Of checkpoints at steps 2, 4 and 6 the second has the highest PSNR; a stage with other losses keeps the last."""
    train_tokenizer(recipe(), tmp_path / "first", device="cpu")
    figures, weights = iter([20.0, 30.0, 25.0]), {}

    def judged(tokenizer, clips, sheet):
        step = 2 * len(weights) + 2
        weights[step] = {name: tensor.clone() for name, tensor in tokenizer.state_dict().items()}
        Image.new("L", (step, 1)).save(sheet)
        return {"psnr": next(figures)}

    monkeypatch.setattr(training, "judge_held_out", judged)
    clips = noise_clips()
    second = {"decoder_of": tmp_path / "first"} if weight else {}
    for steps in (2, 4, 6):  # each call ends with a checkpoint
        wanted = recipe(train={"steps": steps}, adversarial_weight=weight)
        train_tokenizer(wanted, tmp_path / "run", clips=clips, device="cpu", resume=steps > 2, **second)
    log = [json.loads(line) for line in (tmp_path / "run/held-out.jsonl").read_text().splitlines()]
    assert log == [{"step": step, "psnr": psnr} for step, psnr in ((2, 20.0), (4, 30.0), (6, 25.0))]
    assert json.loads((tmp_path / "run/held-out.json").read_text())["step"] == kept
    found = load_tokenizer(tmp_path / "run", device="cpu").state_dict()
    assert all(torch.equal(tensor, weights[kept][name]) for name, tensor in found.items())
    assert not all(torch.equal(tensor, weights[6 if kept == 4 else 4][name]) for name, tensor in found.items())
    with Image.open(tmp_path / "run/reconstructions.png") as sheet:
        assert sheet.width == kept
    assert not (tmp_path / "run/checkpoint.png").exists() and (tmp_path / "run/held-out.png").is_file()


def test_a_kill_while_the_best_checkpoint_is_written_is_made_good(tmp_path, monkeypatch):
    figures, write = iter([20.0, 30.0, 30.0, 25.0]), training.save_json

    def judged(tokenizer, clips, sheet):
        Image.new("L", (1, 1)).save(sheet)
        return {"psnr": next(figures)}

    def killed(path, values):
        if path.name == "held-out.json" and values["psnr"] == 30.0:
            monkeypatch.setattr(training, "save_json", write)
            raise MemoryError
        write(path, values)

    monkeypatch.setattr(training, "judge_held_out", judged)
    monkeypatch.setattr(training, "save_json", killed)
    options = {"clips": noise_clips(), "device": "cpu"}
    train_tokenizer(recipe(train={"steps": 2}), tmp_path, **options)
    with pytest.raises(MemoryError):
        train_tokenizer(recipe(train={"steps": 4}), tmp_path, resume=True, **options)
    train_tokenizer(recipe(train={"steps": 6}), tmp_path, resume=True, **options)
    log = [json.loads(line) for line in (tmp_path / "held-out.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [2, 4, 6]
    assert json.loads((tmp_path / "held-out.json").read_text())["step"] == 4
    assert next(figures, None) is None


def test_without_held_out_clips_there_are_no_figures(tmp_path):
    clips = TrainingClips(batch=noise_clips().batch, held_out=[])
    train_tokenizer(recipe(train={"steps": 1}), tmp_path, clips=clips, device="cpu")
    assert not (tmp_path / "held-out.json").exists()
    assert (tmp_path / "tokenizer.safetensors").exists()


def test_a_loss_weight_changes_the_run_and_its_default_depends_on_the_clips(tmp_path):
    runs = {}
    recipes = {
        "plain": {},
        "world": {"moving_weight": 4.0, "structure_weight": 0.0},
        "natural": {"moving_weight": 1.0, "structure_weight": 0.1},
        "moving": {"moving_weight": 2.0},
        "structure": {"structure_weight": 2.0},
    }
    for name, options in recipes.items():
        for clips in (None, noise_clips()):
            folder = tmp_path / f"{name}-{clips is None}"
            train_tokenizer(recipe(train={"steps": 2}, **options), folder, clips=clips, device="cpu")
            runs[name, clips is None] = (folder / "metrics.jsonl").read_text()
    assert runs["plain", True] == runs["world", True] != runs["natural", True]
    assert runs["plain", False] == runs["natural", False] != runs["world", False]
    for other in ("moving", "structure"):
        assert runs[other, True] != runs["plain", True] and runs[other, False] != runs["plain", False]


def test_structure_is_lost_by_blur_not_by_brightness():
    noise = torch.Generator().manual_seed(0)
    frames = torch.rand(1, 2, 64, 64, 3, generator=noise)
    assert structure_loss(frames, frames) < 1e-6
    assert structure_loss(frames, frames * 0.999 + 0.0005 + 0.2) < 1e-2
    assert 0.3 < structure_loss(frames, torch.full_like(frames, 0.5)) <= 1.0
    assert structure_loss(frames, 1 - frames) > 1.5  # the opposite pattern
    # Noise lost at one scale alone: what is coarser stays.
    coarse = torch.rand(1, 2, 8, 8, 3, generator=noise).repeat_interleave(8, 2).repeat_interleave(8, 3)
    fine = coarse + 0.3 * (frames - 0.5)
    assert structure_loss(fine, coarse) < structure_loss(fine, frames)
    # A picture smaller than a window has no structure to compare.
    assert structure_loss(frames[:, :, :4, :4], frames[:, :, :4, :4] + 1) == 0


def test_structure_loss_has_a_finite_gradient_on_flat_pictures():
    flat = torch.full((1, 1, 32, 32, 3), 0.5)
    made = flat.clone().requires_grad_()
    structure_loss(flat, made).backward()
    assert made.grad.isfinite().all()


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


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"moving_weight": 0.5}, {"structure_weight": -0.1}])
def test_options_out_of_range_are_refused(change):
    with pytest.raises(ReelmError, match=next(iter(change))):
        recipe(**change)
