from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from reelm.core.controls import Controller
from reelm.core.errors import ReelmError
from reelm.core.log import read_log
from reelm.core.token_order import ORDERS
from reelm.data.token_shards import read_shards, write_shard
from reelm.lm.blocks import Block
from reelm.lm.lm_config import LMConfig
from reelm.lm.neighbours import carry_over
from reelm.lm.text import TextEncoder, train_text
from reelm.lm.transformer import VideoTransformer
from reelm.tests.engines import as_grids
from reelm.training import lm_training
from reelm.training.lm_training import LMTraining, TokenBatches, cross_entropy, train_lm
from reelm.training.ranks import Share
from reelm.training.token_noise import with_noise, with_own_draws
from reelm.training.train_config import TrainConfig
from reelm.training.validation import nats_per_token

CAPTIONS = ["a red ball", "a blue ring"]
MODEL = LMConfig(vocab_size=12, rows=2, columns=2, window=3, text_vocab_size=16, prefix=5, width=16, depth=1,
                 heads=2, kv_heads=1, head_dim=8, hidden=16, neighbour_dim=4)  # fmt: skip


@pytest.fixture
def data(tmp_path):
    """Clips that their captions tell: all tokens even, or all odd; of two lengths."""
    generator = torch.Generator().manual_seed(0)
    for index, frames in enumerate((3, 3, 5)):
        kind = torch.arange(20) % 2
        tokens = 2 * torch.randint(6, (20, frames, 2, 2), generator=generator) + kind[:, None, None, None]
        write_shard(tmp_path / f"{index}.safetensors", tokens, [[CAPTIONS[k]] for k in kind], fps=8)
    return tmp_path


@pytest.fixture
def text():
    return TextEncoder(train_text(CAPTIONS))


def recipe(**changes):
    train = TrainConfig(
        **({"steps": 12, "warmup": 2, "report_steps": 1, "learning_rate": 1e-2} | changes.pop("train", {}))
    )
    return LMTraining(**({"model": MODEL, "train": train, "batch_tokens": 96} | changes))


def test_batches_follow_from_the_step_and_miss_no_clip(data, text):
    sets = read_shards(data)
    batches, again = (TokenBatches(sets, text, recipe(train={"steps": 40})) for _ in range(2))
    seen: dict[int, list] = {}
    for step in range(40):
        (*inputs, controls), (*others, _) = batches(step), again(step)
        assert controls == {} and all(torch.equal(a, b) for a, b in zip(inputs, others, strict=True))
        tokens = inputs[0]
        assert tokens.numel() <= 96
        seen.setdefault(tokens.shape[1], []).extend(map(tuple, tokens.flatten(1).tolist()))
    short = read_shards(data)[0].tokens_Bthw.flatten(1).tolist()
    assert set(seen) == {3, 5}
    assert set(seen[3][:40]) == set(map(tuple, short))


def test_captions_are_left_out_as_often_as_asked(data, text):
    sets = read_shards(data)

    def share(drop):
        batches = TokenBatches(sets, text, recipe(drop_caption=drop, train={"steps": 100}))
        lengths = torch.cat([batches(step)[2] for step in range(100)])
        return (lengths == 1).double().mean().item()

    assert share(0.0) == 0
    assert 0.2 < share(0.3) < 0.4


def test_noise_replaces_the_tokens_that_are_seen_and_not_those_that_are_predicted(data, text, tmp_path, monkeypatch):
    tokens_Bthw = torch.arange(400 * 16).view(400, 4, 2, 2)
    noisy_Bthw, again_Bthw = (with_noise(tokens_Bthw, 0.4, np.random.default_rng(1)) for _ in range(2))
    assert torch.equal(noisy_Bthw, again_Bthw)
    shares_B = (noisy_Bthw != tokens_Bthw).flatten(1).double().mean(1)
    assert shares_B.mean().item() == pytest.approx(0.2, abs=0.03) and shares_B.max() > 0.3 > 0.1 > shares_B.min()
    assert noisy_Bthw.max() < tokens_Bthw.numel(), "they are replaced by tokens of the clips"
    assert torch.equal(with_noise(tokens_Bthw, 0.0, np.random.default_rng(1)), tokens_Bthw)
    seen = []
    monkeypatch.setattr(lm_training, "cross_entropy", lambda *batch, seen_Bthw=None: seen.append((batch, seen_Bthw))
                        or cross_entropy(*batch, seen_Bthw=seen_Bthw))  # fmt: skip
    train_lm(recipe(token_noise=0.5, train={"steps": 2}), data, text, tmp_path / "run", device="cpu")
    batches = TokenBatches(read_shards(data), text, recipe(token_noise=0.5, train={"steps": 2}))
    for step, ((_, tokens_Bthw, *_), seen_Bthw) in enumerate(seen):
        assert torch.equal(tokens_Bthw, batches(step).tokens_Bthw) and not torch.equal(tokens_Bthw, seen_Bthw)


def test_noise_of_the_model_s_own_is_what_it_draws_and_does_not_depend_on_how_a_batch_is_divided(data, text):
    model = VideoTransformer(recipe().model)
    nn.init.normal_(model.head.weight, std=2.0)
    (shards, *_), own = read_shards(data), recipe(own_noise=0.6)
    batch = TokenBatches([shards], text, own)(0)
    options = {"most": 0.6, "seeds": [1, 2]}
    seen_Bthw = with_own_draws(model, *batch, seen_Bthw=batch.tokens_Bthw, **options)
    changed_Bthw = seen_Bthw != batch.tokens_Bthw
    assert 0.1 < changed_Bthw.double().mean() < 0.6
    with torch.no_grad():
        chances_BtSV = model(*batch).softmax(-1).unflatten(1, (batch.tokens_Bthw.shape[1], -1))
    drawn_BtS = model.layout.pack({"video": seen_Bthw})
    chances_BtS = chances_BtSV.gather(-1, drawn_BtS[..., None])[..., 0]
    changed_BtS = model.layout.pack({"video": changed_Bthw.long()}).bool()
    assert chances_BtS[changed_BtS].mean() > 3 / recipe().model.vocab_size, "likely tokens are drawn more often"
    one = Share(1, len(batch.tokens_Bthw))
    part = batch.part(one, torch.device("cpu"))
    alone_1thw = with_own_draws(model, *part, seen_Bthw=part.tokens_Bthw, first=1, **options)
    assert torch.equal(alone_1thw[0], seen_Bthw[1])


def test_a_killed_and_resumed_run_has_the_same_losses(data, text, tmp_path, stopped_at_batch):
    train_lm(recipe(), data, text, tmp_path / "whole", device="cpu")
    with stopped_at_batch(5):
        drawn = []
        train_lm(recipe(), data, text, tmp_path / "parts", device="cpu", on_checkpoint=drawn.append)
        assert drawn == [], "who presses Ctrl-C waits for no samples"
    train_lm(recipe(), data, text, tmp_path / "parts", device="cpu", resume=True, on_checkpoint=drawn.append)
    assert len(drawn) == 1
    for name in ("metrics.jsonl", "lm.safetensors", "lm.json", "text.model"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_layers_that_are_computed_again_change_nothing(data, text, tmp_path, monkeypatch):
    calls, forward = [], Block.forward

    def counting(*args):
        calls.append(1)
        return forward(*args)

    monkeypatch.setattr(Block, "forward", counting)
    counts = []
    for name, recompute in (("kept", False), ("again", True)):
        train_lm(recipe(train={"recompute": recompute}), data, text, tmp_path / name, device="cpu")
        counts.append(len(calls))
        calls.clear()
    assert counts[1] == 2 * counts[0]
    for name in ("metrics.jsonl", "lm.safetensors"):
        assert (tmp_path / "kept" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch.compile causes some
def test_compiled_layers_learn_the_same(data, text, tmp_path):
    losses = []
    for name, options in (
        ("plain", {}),
        ("compiled", {"compile": True}),
        ("both", {"compile": True, "recompute": True}),
    ):
        counters.clear()
        train_lm(recipe(train=options), data, text, tmp_path / name, device="cpu")
        losses.append([entry["loss"] for entry in read_log(tmp_path / name / "metrics.jsonl")])
        assert (counters["stats"]["unique_graphs"] > 0) == bool(options)
    assert all(each == pytest.approx(losses[0], abs=1e-4) for each in losses[1:])


def test_layers_are_not_compiled_without_a_compiler(data, text, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ReelmError, match="compile: must be off where there is no C"):
        train_lm(recipe(train={"compile": True}), data, text, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_it_learns_what_the_caption_says(data, text, tmp_path):
    model = train_lm(recipe(drop_caption=0.0, train={"steps": 150}), data, text, tmp_path, device="cpu")
    ids, lengths = text.prefix(CAPTIONS, 5)
    with torch.no_grad():
        first = model(torch.zeros(2, 1, 2, 2, dtype=torch.int64), ids, lengths)[:, 0].softmax(-1)
    assert first[0, 0::2].sum() > 0.9
    assert first[1, 1::2].sum() > 0.9


@pytest.mark.parametrize("order", ORDERS)
def test_it_learns_which_token_belongs_to_which_place(text, tmp_path, order):
    tokens = torch.arange(4).view(2, 2).expand(20, 2, 2, 2)
    write_shard(tmp_path / "places.safetensors", tokens, [[CAPTIONS[0]]] * 20, fps=8)
    sizes = LMConfig(**{**vars(MODEL), "order": order})
    model = train_lm(recipe(model=sizes, train={"steps": 60}), tmp_path, text, tmp_path / "run", device="cpu")
    ids, lengths = text.prefix(CAPTIONS[:1], 5)
    with torch.no_grad():
        found = as_grids(model, model(tokens[:1], ids, lengths).argmax(-1))
    assert torch.equal(found, tokens[:1])


def test_a_run_starts_from_the_weights_that_it_is_given(data, text, tmp_path):
    first = train_lm(recipe(), data, text, tmp_path / "first", device="cpu")
    # One step at next to no learning rate: what comes out is what went in.
    gentle = recipe(seed=5, train={"steps": 1, "learning_rate": 1e-9})
    again = train_lm(gentle, data, text, tmp_path / "again", device="cpu", init=tmp_path / "first")
    for name, tensor in first.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=1e-6)


def test_a_run_starts_from_the_weights_of_another_order(data, text, tmp_path):
    first = train_lm(recipe(train={"steps": 2}), data, text, tmp_path / "first", device="cpu")
    coarse = LMConfig(**{**vars(MODEL), "order": "coarse"})
    gentle = recipe(model=coarse, train={"steps": 1, "learning_rate": 1e-9})
    folder = tmp_path / "first"
    for old, new in (("raster", coarse), ("coarse", MODEL)):
        run = recipe(model=new, train=vars(gentle.train))
        again = train_lm(run, data, text, tmp_path / f"from-{old}", device="cpu", init=folder)
        for name, tensor in first.state_dict().items():
            if name == "neighbour_mix.weight":
                tensor = carry_over(tensor, old, new.order)
            torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=1e-6)
        first, folder = again, tmp_path / f"from-{old}"


def test_weights_of_another_model_or_text_are_refused(data, text, tmp_path):
    train_lm(recipe(train={"steps": 1}), data, text, tmp_path / "first", device="cpu")
    other, out = TextEncoder(train_text([*CAPTIONS, "a green cross"])), tmp_path / "out"
    deeper = recipe(model=LMConfig(**{**vars(MODEL), "depth": 2}))
    text_told, sizes_told = "init: must have the text model", r"^init: must have the sizes .* \(--model.depth 1\)"
    for wrong, words, message in ((recipe(), other, text_told), (deeper, text, sizes_told)):
        with pytest.raises(ReelmError, match=message):
            train_lm(wrong, data, words, out, device="cpu", init=tmp_path / "first")
    with pytest.raises(ReelmError, match="init: must not be given with resume"):
        train_lm(recipe(), data, text, tmp_path / "first", device="cpu", init=tmp_path / "first", resume=True)
    assert not out.exists()


def test_data_that_does_not_fit_is_refused(data, text, tmp_path):
    for change, message in (
        ({"vocab_size": 8}, "vocab_size"),
        ({"rows": 4}, "rows"),
        ({"text_vocab_size": 3}, "text_vocab"),
    ):
        wrong = recipe(model=LMConfig(**{**vars(MODEL), **change}))
        with pytest.raises(ReelmError, match=message):
            train_lm(wrong, data, text, tmp_path / "out", device="cpu")


def test_a_caption_that_does_not_fit_is_refused_before_the_first_step(data, text, tmp_path):
    wrong = recipe(model=LMConfig(**{**vars(MODEL), "prefix": 3}))
    with pytest.raises(ReelmError, match="captions: must be at most 2 text tokens long"):
        train_lm(wrong, data, text, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_model_learns_what_its_keys_do(tmp_path, text):
    """Tokens that a key of the same latent frame decides: without the key they would cost ln 2 nats each."""
    controller = Controller(keys=("a", "d"), axes=("turn",), limits=(2.0,), bins=3, pictures=2)
    generator = torch.Generator().manual_seed(0)
    keys, turns = (torch.randint(n, (64, 5, 2), generator=generator) for n in (4, 3))
    keys[:, 0], turns[:, 0] = 0, 1
    tokens = ((keys[..., 1] & 1) * 3 + 4 * (turns[..., 0] == 2))[..., None, None].expand(-1, -1, 2, 2)
    write_shard(tmp_path / "0.safetensors", tokens, [[CAPTIONS[0]]] * 64, fps=8,
                controls={"keys": keys, "turn": turns}, controller=controller)  # fmt: skip
    played = replace(MODEL, controller=controller)
    made = recipe(model=played, batch_tokens=640, train={"steps": 40, "learning_rate": 3e-2})
    model = train_lm(made, tmp_path, text, tmp_path / "run")
    shards = read_shards(tmp_path)
    cost = nats_per_token(model, shards, text, cross_entropy, 640)
    assert cost < 0.1
    others = replace(shards[0], controls={**shards[0].controls, "keys": shards[0].controls["keys"].flip(0)})
    assert nats_per_token(model, [others], text, cross_entropy, 640) > 10 * cost
    for wrong in (MODEL, replace(MODEL, controller=replace(controller, bins=5))):
        with pytest.raises(ReelmError, match=r"^controller: must be that of the data"):
            train_lm(replace(made, model=wrong), tmp_path, text, tmp_path / "other")
