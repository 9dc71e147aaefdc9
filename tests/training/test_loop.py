import dataclasses
import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from reelm.core.checkpoint import load_tensors, save_tensors
from reelm.core.errors import CheckpointError, ReelmError
from reelm.core.log import read_log
from reelm.training import train_state
from reelm.training.loop import train
from reelm.training.state_folders import newest_state
from reelm.training.step_guard import StepGuard
from reelm.training.train_config import TrainConfig
from reelm.training.train_state import TrainState


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(6, 6)])
        self.head = nn.Linear(6, 1)

    def forward(self, x):
        return self.head(torch.tanh(self.blocks[0](x)))


def make():
    torch.manual_seed(0)
    return Net()


def loss(model, step, share):
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
    return (model(x) - x.sum(1, keepdim=True)).square().mean(), {}


def config(**changes):
    return TrainConfig(**({"steps": 30, "warmup": 3, "report_steps": 1} | changes))


def losses(folder):
    return [line for line in (folder / "metrics.jsonl").read_text().splitlines() if line]


# Muon computes in bfloat16 by torch's own design: these matrices are 6 x 6.
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(tmp_path, optimizer):
    whole = train(make(), loss, config(optimizer=optimizer), tmp_path / "whole")

    def stopping(model, step, share):
        if step == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(model, step, share)

    part = train(make(), stopping, config(optimizer=optimizer), tmp_path / "parts")
    assert part.step == 13
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:  # as a run that went on and was killed leaves it
        file.write('{"step": 14, "loss": 1.0, "norm": 1.0}\n{"step": 15, "lo')
    again = train(make(), loss, config(optimizer=optimizer), tmp_path / "parts", resume=True)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    torch.testing.assert_close(whole.average, again.average, rtol=0, atol=0)
    assert (tmp_path / "whole" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_metrics_are_there_at_once_and_what_a_kill_left_over_is_dropped(tmp_path):
    class Killed(BaseException):
        pass

    def killed(model, step, share):
        if step:
            assert len(losses(tmp_path / "parts")) == step  # though no checkpoint has come
        if step == 12:
            raise Killed
        return loss(model, step, share)

    with pytest.raises(Killed):
        train(make(), killed, config(), tmp_path / "parts")
    train(make(), loss, config(), tmp_path / "whole")
    train(make(), loss, config(), tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_the_last_states_are_kept_and_a_run_goes_back_to_one(tmp_path):
    options = config(steps=6, keep=3, checkpoint_minutes=1e-9)
    whole = train(make(), loss, options, tmp_path)
    kept = ["state-00000004", "state-00000005", "state-00000006"]
    assert sorted(path.name for path in tmp_path.glob("*state*")) == kept
    for name in kept[1:]:
        shutil.rmtree(tmp_path / name)
    again = train(make(), loss, options, tmp_path, resume=True)
    assert sorted(path.name for path in tmp_path.glob("*state*")) == kept
    torch.testing.assert_close(whole.average, again.average, rtol=0, atol=0)
    assert [entry["step"] for entry in read_log(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    train(make(), loss, config(steps=3, keep=5, checkpoint_minutes=1e-9), tmp_path / "few")
    assert len([*(tmp_path / "few").glob("state-*")]) == 3


@dataclasses.dataclass(frozen=True)
class Recipe:
    train: TrainConfig
    sizes: tuple[int, ...] = (1, 2)
    file: Path | None = None


def test_a_run_goes_on_by_its_own_recipe_alone(tmp_path):
    recipe = Recipe(config(steps=3), file=Path("a"))
    train(make(), loss, recipe.train, tmp_path, recipe=recipe)
    for other, name in (
        (replace(recipe, sizes=(1, 3)), "sizes"),
        (replace(recipe, file=None), "file"),
        (replace(recipe, train=config(steps=3, learning_rate=0.5)), "train.learning_rate"),
    ):
        with pytest.raises(ReelmError, match=f"^{name}: must be as in the run that goes on"):
            train(make(), loss, other.train, tmp_path, recipe=other, resume=True)
    longer = replace(recipe, train=config(steps=5, report_steps=2, checkpoint_minutes=1.0))
    assert train(make(), loss, longer.train, tmp_path, recipe=longer, resume=True).step == 5
    assert json.loads((tmp_path / "recipe.json").read_text())["train"]["steps"] == 5


def test_a_finished_run_that_goes_on_hands_out_what_a_kill_left_out(tmp_path):
    train(make(), loss, config(), tmp_path)
    handed_out = []
    state = train(make(), loss, config(), tmp_path, resume=True, on_checkpoint=lambda *args: handed_out.append(args))
    assert handed_out == [(newest_state(tmp_path), False)]
    assert state.step == 30


def test_learning_rate_warms_up_and_falls():
    rates = [config(steps=100, warmup=10).rate(step) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == rates[9] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.06


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "muon"}, {"ema": 0.0}, {"weight_decay": 0.5}, {"clip": 0.01}, {"learning_rate": 0.1},
        {"precision": "bfloat16"},
    ],
)  # fmt: skip
def test_every_option_changes_the_result(tmp_path, change):
    plain = train(make(), loss, config(), tmp_path / "plain").average
    other = train(make(), loss, config(**change), tmp_path / "other").average
    assert any(not torch.equal(plain[name], other[name]) for name in plain)


def test_bfloat16_is_for_the_products_alone(tmp_path, monkeypatch):
    seen = []

    def watching(model, step, share):
        x = torch.ones(8, 6)
        seen.append((model(x).dtype, {p.dtype for p in model.parameters()}))
        return loss(model, step, share)

    single, half = torch.float32, torch.bfloat16
    for supported, precision, wanted in (
        (False, "auto", single), (False, "bfloat16", half), (True, "auto", half), (True, "float32", single)
    ):  # fmt: skip
        monkeypatch.setattr(train_state, "faster_in_bfloat16", lambda device, answer=supported: answer)
        train(make(), watching, config(steps=1, precision=precision), tmp_path / f"{supported}-{precision}")
        assert seen.pop() == (wanted, {single})


def test_a_run_that_goes_on_keeps_the_precision_with_which_it_began(tmp_path, monkeypatch):
    for number, faster in enumerate((True, False)):
        monkeypatch.setattr(train_state, "faster_in_bfloat16", lambda device, answer=faster: answer)
        state = train(make(), loss, config(steps=number + 1), tmp_path, resume=number > 0)
        assert state.precision == "bfloat16"


def test_without_an_average_the_weights_themselves_are_kept(tmp_path):
    state = train(make(), loss, config(ema=0.0), tmp_path)
    assert torch.equal(newest_state(tmp_path).weights()["head.weight"], state.model.head.weight)


def test_resume_must_be_said(tmp_path):
    with pytest.raises(ReelmError, match="resume"):
        train(make(), loss, config(), tmp_path, resume=True)
    train(make(), loss, config(steps=2), tmp_path)
    with pytest.raises(ReelmError, match="resume"):
        train(make(), loss, config(), tmp_path)


def test_another_models_state_is_refused(tmp_path):
    train(make(), loss, config(steps=2), tmp_path)
    with pytest.raises(CheckpointError, match="must belong to this model"):
        TrainState(nn.Linear(2, 2), config()).load(newest_state(tmp_path))


def test_another_optimizers_state_is_refused(tmp_path):
    train(make(), loss, config(steps=2), tmp_path)
    with pytest.raises(CheckpointError, match="must belong to this optimizer"):
        train(make(), loss, config(optimizer="muon"), tmp_path, resume=True)


def test_a_refused_resume_makes_no_folder(tmp_path):
    with pytest.raises(ReelmError, match="resume"):
        train(make(), loss, config(), tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()


def spoilt(bad, factor=float("nan")):
    """The loss of the tests, times a number at some steps; each changes a buffer and replaces one, as codebooks do."""

    def of(model, step, share):
        value, figures = loss(model, step, share)
        model.codebook = model.codebook * (factor if step in bad else 0.5)
        model.begun.fill_(True)
        return value * (factor if step in bad else 1), figures

    return of


def make_coded():
    model = make()
    model.register_buffer("codebook", torch.ones(3))
    model.register_buffer("begun", torch.tensor(False))
    return model


def test_steps_that_are_not_finite_are_left_out_and_named(tmp_path, capsys):
    state = train(make_coded(), spoilt({3, 4}), config(steps=8, report_steps=1, most_left_out=2), tmp_path,
                  batch_name="the clips of {}".format)  # fmt: skip
    err = capsys.readouterr().err
    assert "step 4 is left out: its gradient has the norm nan" in err and "it has the clips of 4" in err
    assert torch.equal(state.model.codebook, torch.full((3,), 0.5**6))
    assert all(bool(p.isfinite().all()) for p in (*state.model.parameters(), *state.average.values()))
    assert [entry["step"] for entry in read_log(tmp_path / "metrics.jsonl")] == [1, 2, 3, 6, 7, 8]


@pytest.mark.parametrize("first", [0, 3])
def test_nothing_but_steps_that_are_not_finite_ends_the_run_after_a_checkpoint_that_goes_on(tmp_path, first):
    options, broken = {"steps": 8, "most_left_out": 2}, spoilt({first, first + 1, first + 2})
    with pytest.raises(ReelmError, match="loss: must have a finite gradient that is no spike in one of 3 steps"):
        train(make_coded(), broken, config(**options), tmp_path)
    state = train(make_coded(), broken, config(**options), tmp_path, resume=True)
    assert state.step == 8 and bool(state.average["head.weight"].isfinite().all())
    assert bool(state.model.begun) and torch.equal(state.model.codebook, torch.full((3,), 0.5**5))


def test_what_a_first_step_has_begun_is_undone_where_it_is_left_out(tmp_path):
    with pytest.raises(ReelmError, match="loss: must have a finite gradient"):
        train(model := make_coded(), spoilt({0}), config(most_left_out=0), tmp_path)
    assert not model.begun and torch.equal(model.codebook, torch.ones(3))


def test_a_stop_among_steps_that_are_left_out_goes_on_counting(tmp_path):
    def stopping(model, step, share):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return spoilt(range(9))(model, step, share)

    assert train(make_coded(), stopping, config(most_left_out=2), tmp_path).guard.left_out == 2
    with pytest.raises(ReelmError, match="loss: must have a finite gradient"):
        train(make_coded(), spoilt(range(3)), config(most_left_out=2), tmp_path, resume=True)


def test_where_memory_is_short_the_option_that_helps_is_named(tmp_path):
    def large(model, step, share):
        return torch.empty(2**60).sum(), {}

    def full(model, step, share):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    for number, broken in enumerate((large, full)):
        with pytest.raises(ReelmError, match="batch_tokens: must be smaller for the memory of this machine, got 7"):
            train(make(), broken, config(), tmp_path / str(number), batch_option=("batch_tokens", 7))


def test_a_spike_is_left_out_also_in_a_run_that_goes_on(tmp_path):
    def stopping(model, step, share):
        if step == 110:
            os.kill(os.getpid(), signal.SIGTERM)
        return spoilt({120}, 1e4)(model, step, share)

    whole = train(make_coded(), spoilt({120}, 1e4), config(steps=130), tmp_path / "whole")
    assert train(make_coded(), stopping, config(steps=130), tmp_path / "parts").step == 111
    parts = train(make_coded(), spoilt({120}, 1e4), config(steps=130), tmp_path / "parts", resume=True)
    assert whole.guard.values() == parts.guard.values() and whole.guard.steps == 100
    assert all(torch.equal(whole.average[name], parts.average[name]) for name in whole.average)
    assert torch.equal(whole.model.codebook, torch.full((3,), 0.5**129))


def test_what_a_guard_accepts():
    guard = StepGuard(spike=3.0, most=1)
    assert all(guard.accepts(norm) for norm in [1e6] * 10 + [1.0] * 90), "at first any"
    mean = guard.mean
    assert not guard.accepts(3.1 * mean) and not guard.gives_up and guard.mean == mean
    assert not guard.accepts(1.0, float("inf")) and guard.gives_up
    assert guard.accepts(2.9 * mean) and guard.left_out == 0
    assert guard.mean == pytest.approx(mean + 0.01 * 1.9 * mean)


def test_a_training_that_is_shorter_than_its_warm_up_says_what_rate_it_reaches(tmp_path, capsys):
    for steps, warmup, reached in ((1, 0, None), (4, 3, None), (3, 3, "0.01"), (3, 12, "0.0025"), (1, 100, "0.0001")):
        train(make(), loss, config(steps=steps, warmup=warmup, learning_rate=0.01), tmp_path / f"{steps}-{warmup}")
        err = capsys.readouterr().err
        assert ("warning: train.warmup" in err) == (reached is not None)
        if reached:
            assert f"ends after {steps}: it reaches {reached} of 0.01 and never falls" in err


@pytest.mark.parametrize("name", ["weight_decay", "clip", "spike", "checkpoint_minutes", "learning_rate", "ema"])
def test_options_that_are_not_finite_are_refused(name):
    for value in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ReelmError, match=f"^{name}: must be"):
            config(**{name: value})


def test_damaged_states_are_refused_by_name(tmp_path):
    train(make(), loss, config(steps=2), tmp_path)
    path = tmp_path / "state-00000002" / "state.safetensors"
    whole = load_tensors(path)
    moments = {name for name in whole if name.startswith("optimizer.")}
    for tensors, message in (
        (whole | {"average.head.bias": torch.zeros(2)}, "must belong to this model, got another average.head.bias"),
        ({name: tensor for name, tensor in whole.items() if name != "average.head.bias"}, "another average.head.bias"),
        (whole | {"auxiliary.head.bias": torch.zeros(2)}, "must belong to this model, got another auxiliary.head.bias"),
        (whole | {"model.head.bias": torch.zeros(2)}, "must belong to this model, got another model.head.bias"),
        ({name: tensor for name, tensor in whole.items() if name not in moments}, "must belong to this optimizer"),
        (whole | {"optimizer.1.0.exp_avg": torch.zeros(6, 6)}, "must belong to this optimizer"),
        (whole | {"optimizer.0.9.exp_avg": torch.zeros(6, 6)}, "must belong to this optimizer"),
        (whole | {"optimizer.0.0.exp_avg": torch.zeros(6, 5)}, "must belong to this optimizer"),
    ):
        save_tensors(path, tensors)
        with pytest.raises(CheckpointError, match=rf"^resume: state-00000002 .*{message}"):
            train(make(), loss, config(), tmp_path, resume=True)
    save_tensors(path, whole)
    values = path.with_name("state.json")
    for text, message in (("{}", "step"), ('{"step": "two"}', "step"), ("[1", "must be JSON")):
        values.write_text(text)
        with pytest.raises(ReelmError, match=message):
            train(make(), loss, config(), tmp_path, resume=True)


def test_a_step_that_fails_does_not_lose_the_state_that_is_being_written(tmp_path, monkeypatch):
    from reelm.training import state_folders

    write, told = state_folders.atomic_write, []

    def slow(*args):
        time.sleep(0.3)
        return write(*args)

    def failing(model, step, share):
        if step == 5:
            told.append(newest_state(tmp_path))
            raise KeyError
        return loss(model, step, share)

    monkeypatch.setattr(state_folders, "atomic_write", slow)
    with pytest.raises(KeyError):
        train(make(), failing, config(checkpoint_minutes=1e-9, keep=9), tmp_path)
    assert [newest_state(tmp_path).values().step, told[0].values().step] == [5, 4]
    assert not [*tmp_path.glob(".state*")]
