"""The best checkpoint of a training, by what held-out tokens cost it."""

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F

from reelm.core.checkpoint import load_tensors
from reelm.core.token_order import ORDERS
from reelm.data.token_shards import read_shards, write_shard
from reelm.lm.lm_config import LMConfig
from reelm.lm.text import TextEncoder, train_text
from reelm.lm.transformer import VideoTransformer
from reelm.tests.engines import as_grids
from reelm.training import validation
from reelm.training.lm_training import LMTraining, cross_entropy, train_lm
from reelm.training.train_config import TrainConfig
from reelm.training.validation import HeldOut, best_of, nats_per_token, read_entries

SIZES = LMConfig(vocab_size=12, rows=2, columns=2, window=3, text_vocab_size=16, prefix=4, width=16, depth=1, heads=2,
                 kv_heads=1, head_dim=8, hidden=16, neighbour_dim=4)  # fmt: skip


@pytest.fixture(scope="module")
def text():
    return TextEncoder(train_text(["a red ball", "a blue ring"]))


def model(seed=0, order="raster"):
    torch.manual_seed(seed)
    return VideoTransformer(dataclasses.replace(SIZES, order=order)).eval().requires_grad_(False)


@pytest.fixture
def tokens(tmp_path):
    """Folders to train on, and of what is held out: clips of two lengths whose tokens are others."""
    generator = torch.Generator().manual_seed(0)
    for name, low in (("train", 0), ("held-out", 6)):
        (tmp_path / name).mkdir()
        for length, count in ((3, 5), (4, 2)):
            ids = torch.randint(low, low + 6, (count, length, 2, 2), generator=generator)
            path = tmp_path / name / f"{length}.safetensors"
            write_shard(path, ids, [["a red ball", "a blue ring"]] * count, fps=8)
    return tmp_path


@pytest.mark.parametrize("order", ORDERS)
def test_nats_are_the_mean_over_all_tokens_however_they_are_batched(tokens, text, order):
    lm, sets, nats, count = model(order=order), read_shards(tokens / "held-out"), 0.0, 0
    text_BP, lengths_B = text.prefix(["a red ball"], 4, "captions")
    for shards in sets:
        for clip in shards.tokens_Bthw.long():
            logits = lm(clip[None], text_BP, lengths_B)[0]
            # Of each place, in raster order.
            logits_thwV = torch.stack([as_grids(lm, value_S[None])[0] for value_S in logits.unbind(-1)], -1)
            nats -= float(F.log_softmax(logits_thwV, -1).gather(-1, clip[..., None]).sum())
            count += clip.numel()
    for batch_tokens in (1, 40, 1000):
        assert nats_per_token(lm, sets, text, cross_entropy, batch_tokens) == pytest.approx(nats / count, rel=1e-5)


def test_the_best_is_kept_and_told(tokens, text):
    sets = read_shards(tokens / "held-out")
    models = [model(seed) for seed in range(5)]
    costs = [round(nats_per_token(lm, sets, text, cross_entropy, 100), 5) for lm in models]
    held_out = HeldOut(sets, text, tokens, cross_entropy, batch_tokens=100, step=0)
    for step, lm in enumerate(models[:3]):
        held_out.judge(lm, step)
    again = HeldOut(sets, text, tokens, cross_entropy, batch_tokens=100, step=2)
    for step in (2, 3, 4):  # step 2 once more, as after a kill
        again.judge(models[step], step)
    told = [json.loads(line) for line in (tokens / "held-out.jsonl").read_text().splitlines()]
    assert told == [{"step": step, "nats_per_token": cost} for step, cost in enumerate(costs)]
    best = load_tensors(again.best)
    assert all(torch.equal(tensor, best[name]) for name, tensor in models[costs.index(min(costs))].state_dict().items())


@pytest.mark.parametrize(("costs", "known"), [((5.0, 4.0, 6.0), [1, 2]), ((5.0, 4.0, 3.0), [])])
def test_a_run_that_goes_back_forgets_what_was_measured_later(tokens, text, monkeypatch, costs, known):
    """It goes back to step 2. Where the best checkpoint came later, no weights are left of the best one before."""
    measured = iter([*costs, 3.5])
    monkeypatch.setattr(validation, "nats_per_token", lambda *_: next(measured))
    held_out = HeldOut([], text, tokens, cross_entropy, batch_tokens=100, step=0)
    for step in (1, 2, 3):
        held_out.judge(model(step), step)
    again = HeldOut([], text, tokens, cross_entropy, batch_tokens=100, step=2)
    assert [entry.step for entry in read_entries(tokens)] == known
    again.judge(model(4), 4)
    best, own = load_tensors(again.best), model(4).state_dict()
    assert best_of(read_entries(tokens)).step == 4 and all(
        torch.equal(tensor, own[name]) for name, tensor in best.items()
    )


def test_what_comes_out_is_the_best_checkpoint_and_a_stop_changes_nothing(tokens, text, stopped_at_batch):
    # What is held out has none of the tokens that are trained on: the first checkpoint is the best.
    recipe = LMTraining(
        model=SIZES, batch_tokens=40,
        train=TrainConfig(steps=8, learning_rate=0.05, warmup=1, ema=0.0, checkpoint_minutes=1e-9),
    )  # fmt: skip
    whole = train_lm(recipe, tokens / "train", text, tokens / "whole", held_out=tokens / "held-out", device="cpu")
    told = [json.loads(line) for line in (tokens / "whole" / "held-out.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in told] == list(range(1, 9))
    assert min(told, key=lambda entry: entry["nats_per_token"])["step"] < 6
    sets = read_shards(tokens / "held-out")
    least = min(entry["nats_per_token"] for entry in told)
    assert nats_per_token(whole, sets, text, cross_entropy, 40) == pytest.approx(least, abs=1e-4)
    last = train_lm(recipe, tokens / "train", text, tokens / "plain", device="cpu")
    assert nats_per_token(last, sets, text, cross_entropy, 40) == pytest.approx(told[-1]["nats_per_token"], abs=1e-4)

    options = {"held_out": tokens / "held-out", "device": "cpu"}
    with stopped_at_batch(5):
        train_lm(recipe, tokens / "train", text, tokens / "parts", **options)
    again = train_lm(recipe, tokens / "train", text, tokens / "parts", resume=True, **options)
    assert (tokens / "parts" / "held-out.jsonl").read_text() == (tokens / "whole" / "held-out.jsonl").read_text()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
