"""Converted models are trained further on tokens of their own tokenizers, in all their weights or in low-rank ones."""

from dataclasses import replace

import pytest
import torch

from reelm import VideoGenerator
from reelm.core.checkpoint import find_checkpoint, load_tensors
from reelm.core.condition import Text
from reelm.core.errors import ReelmError
from reelm.core.log import read_log
from reelm.data.token_shards import read_shards, write_shard
from reelm.generation.model_conversion import convert
from reelm.generation.pretrained import read_config
from reelm.lm.lm_config import LMConfig
from reelm.sampling.plan import SamplingConfig
from reelm.tests import emu3_models as emu3
from reelm.tests.generation.test_model_conversion import PREDICT, SIZE, TEXT, publish, tokenizer
from reelm.tests.lm.test_cosmos_transformer import KINDS, draw, make
from reelm.training.finetuning import next_token_nats
from reelm.training.lm_training import LMTraining
from reelm.training.recipes import train_language_model
from reelm.training.train_config import TrainConfig

__all__ = ["tokenizer"]  # a fixture
CAPTIONS = ["a red ball", "a blue ball"]


def recipe(steps=16, **changes):
    train = {"warmup": 2, "report_steps": 1, "learning_rate": 1e-2, "ema": 0.0} | changes.pop("train", {})
    return LMTraining(train=TrainConfig(steps=steps, **train), **({"batch_tokens": 72} | changes))


def write_tokens(folder, frames, vocab_size):
    """Clips of two kinds, each of which repeats one latent frame, told by its caption."""
    folder.mkdir()
    kinds = torch.randint(vocab_size, (2, 1, 2, 3), generator=torch.Generator().manual_seed(1))
    tokens = kinds.repeat(6, frames, 1, 1)
    write_shard(folder / "0.safetensors", tokens, [[CAPTIONS[i % 2]] for i in range(12)], fps=8)
    return folder


@pytest.fixture(scope="module")
def cosmos(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cosmos")
    convert(publish(folder / "source", PREDICT), folder / "model", tokenizer=tokenizer, **SIZE)
    return folder / "model", write_tokens(folder / "tokens", 5, 40)


@pytest.fixture(scope="module")
def emu(tmp_path_factory):
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("emu3")
    convert(emu3.publish(folder / "source"), folder / "model", height=8, width=12, latent_frames=4)
    return folder / "model", write_tokens(folder / "tokens", 4, emu3.CODES)


def losses(run):
    return [entry["loss"] for entry in read_log(run / "metrics.jsonl")]


def nats(folder, tokens):
    """The loss of a checkpoint on all clips."""
    (shards,) = read_shards(tokens)
    lm = VideoGenerator.from_pretrained(folder, device="cpu").parts.lm
    captions = [texts[0] if lm.reads else "" for texts in shards.captions]
    return float(next_token_nats(lm, shards.tokens_Bthw.long().flatten(1), captions))


@pytest.mark.parametrize("kind", KINDS)
def test_the_pass_of_training_is_that_of_generation(kind):
    model, _, s, text = make(kind)
    tokens_BS = draw(2 * s["frames"] * 6, s).view(2, -1)
    conditions = [text or (Text(""),)] * 2
    logits_BLV = model(tokens_BS, conditions)
    whole_BSV = model.oracle(tokens_BS, conditions)
    torch.testing.assert_close(logits_BLV, whole_BSV[:, -logits_BLV.shape[1] :], atol=1e-4, rtol=0)
    assert whole_BSV.shape[1] - logits_BLV.shape[1] == (0 if text else 1)


@pytest.mark.parametrize(("given", "rank"), [("cosmos", 2), ("emu", 0)])
def test_a_converted_model_learns_clips_and_keeps_all_else(request, tmp_path, given, rank):
    model, tokens = request.getfixturevalue(given)
    out, before = tmp_path / "run", nats(model, tokens)
    options = {"data": tokens, "tokenizer": model, "init": str(model), "device": "cpu"}
    sampling = SamplingConfig(temperature=0.9)
    train_language_model(
        out, recipe=recipe(steps=16, lora_rank=rank, train={"recompute": bool(rank)}), sampling=sampling, **options
    )
    assert losses(out)[0] == pytest.approx(before, rel=0.3)
    assert nats(out / "model", tokens) < 0.8 * before
    old, new = read_config(model), read_config(out / "model")
    assert (new.name, new.lm, new.tokenizer) == ("run", old.lm, old.tokenizer)
    assert new.sampling == replace(old.sampling, temperature=0.9) and old.sampling.temperature != 0.9
    parts = [VideoGenerator.from_pretrained(folder, device="cpu").parts for folder in (model, out / "model")]
    assert parts[0].tokenizer_id == parts[1].tokenizer_id and parts[0].lm_id != parts[1].lm_id
    first, second = (load_tensors(folder / "lm.safetensors") for folder in (model, out / "model"))
    changed = {name for name, weight in first.items() if not torch.equal(weight.half(), second[name])}
    if rank:
        assert changed and all("norm" not in name and name.startswith("blocks.") for name in changed)


def test_it_goes_on_with_the_options_that_it_began_with(cosmos, tmp_path):
    model, tokens = cosmos
    options = {"data": tokens, "tokenizer": model, "init": str(model), "device": "cpu"}
    train_language_model(tmp_path / "run", recipe=recipe(steps=3, lora_rank=2), **options)
    before = losses(tmp_path / "run")
    longer = recipe(steps=6, lora_rank=2)
    report = train_language_model(tmp_path / "run", recipe=longer, resume=True, device="cpu")
    assert report.progress.finished and losses(tmp_path / "run")[:3] == before
    assert len(losses(tmp_path / "run")) == 6 and losses(tmp_path / "run")[3] < before[0]


def test_an_export_that_is_killed_leaves_no_part_of_a_file(cosmos, tmp_path, monkeypatch):
    model, tokens = cosmos
    options = {"data": tokens, "tokenizer": model, "init": str(model), "device": "cpu"}

    def killed(source, target):
        target.write_bytes(source.read_bytes()[:100])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("reelm.training.finetuning.shutil.copyfile", killed)
        with pytest.raises(KeyboardInterrupt):
            train_language_model(tmp_path / "run", recipe=recipe(steps=2), **options)
    assert not any((tmp_path / "run/model").iterdir())
    train_language_model(tmp_path / "run", recipe=recipe(steps=2), resume=True, device="cpu")
    assert VideoGenerator.from_pretrained(tmp_path / "run/model", device="cpu")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipe": recipe(token_noise=0.1)}, "token_noise: must not be given"),
        ({"recipe": recipe(train={"tensor": 2})}, "train.tensor: must be 1"),
        ({"recipe": recipe(model=LMConfig(vocab_size=40, width=64))}, "model.width: must not be given"),
        ({"text": "text.json"}, "text: must not be given"),
        ({"tokenizer": "world"}, "tokenizer: must be that of the model"),
        ({"data": "source"}, "data: must be token shards"),
        ({"data": "long"}, "data: must have clips of at most 5 latent frames"),
        ({"data": "large"}, "data: must have token ids below 40"),
        ({"init": "embeddings"}, "init: must not read embeddings of text"),
    ],
)
def test_what_does_not_fit_is_refused(cosmos, tokenizer, tmp_path, changes, words):
    model, tokens = cosmos
    places = {"long": (6, 40), "large": (5, 64)}
    options = {"data": tokens, "tokenizer": model, "init": str(model), "recipe": recipe()} | changes
    if changes.get("data") in places:
        options["data"] = write_tokens(tmp_path / changes["data"], *places[changes["data"]])
    elif "data" in changes:
        options["data"] = tmp_path / "clips"
        options["data"].mkdir()
    elif "text" in changes:
        options["text"] = find_checkpoint("world") / "text.model"
    elif "tokenizer" in changes:
        options["tokenizer"] = find_checkpoint("world")
    elif "init" in changes:
        convert(publish(tmp_path / "source", TEXT), tmp_path / "text", tokenizer=tokenizer, **SIZE)
        options["init"] = options["tokenizer"] = tmp_path / "text"
        options["init"] = str(options["init"])
    with pytest.raises(ReelmError, match=words):
        train_language_model(tmp_path / "run", device="cpu", **options)
    assert not (tmp_path / "run" / "model").exists()
