"""Low-rank adaptation: it begins as nothing, leaves all weights, and merges into a plain model that does the same."""

import dataclasses

import pytest
import torch

from reelm.core.checkpoint import load_tensors
from reelm.core.errors import ReelmError
from reelm.core.log import read_log
from reelm.lm.transformer import VideoTransformer
from reelm.tests.training.test_lm_training import CAPTIONS, MODEL, data, recipe, text
from reelm.training.lm_training import cross_entropy, train_lm
from reelm.training.low_rank import adapt, merge_adapters
from reelm.training.state_folders import newest_state

__all__ = ["data", "text"]  # fixtures


@pytest.fixture
def taught(data, text, tmp_path_factory):
    """The folder of a trained model."""
    folder = tmp_path_factory.mktemp("taught")
    train_lm(recipe(), data, text, folder, levels=(4, 3), device="cpu")
    return folder


def loss_of(model, text):
    tokens_Bthw = torch.arange(24).view(2, 3, 2, 2) % 12
    return cross_entropy(model, tokens_Bthw, *text.prefix(CAPTIONS, MODEL.prefix, "captions"))


def test_an_adapted_model_begins_as_it_was_and_merges_into_a_plain_one(text):
    torch.manual_seed(0)
    model, plain = VideoTransformer(MODEL), VideoTransformer(MODEL)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = loss_of(model, text)
    adapt(model, 3)
    assert torch.equal(loss_of(model, text), before)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    # Four matrices of a block, each with 3 rows as long as its inputs and 3 columns as long as its outputs.
    sizes = [(32, 16), (16, 16), (32, 16), (16, 16)]
    assert sum(p.numel() for p in trained.values()) == 3 * sum(map(sum, sizes)) * MODEL.depth
    merged = merge_adapters(model.state_dict())
    assert all(torch.equal(merged[name], tensor) for name, tensor in weights.items())
    for parameter in trained.values():
        torch.nn.init.normal_(parameter, std=0.3)
    plain.load_state_dict(merge_adapters(model.state_dict()))
    assert not torch.equal(loss_of(model, text), before)
    torch.testing.assert_close(loss_of(plain, text), loss_of(model, text))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_it_is_learnt_beside_weights_that_stay(data, text, taught, tmp_path, stopped_at_batch, optimizer):
    other = recipe(lora_rank=2, train={"steps": 24, "learning_rate": 3e-2, "optimizer": optimizer}, seed=5)
    options = {"levels": (4, 3), "device": "cpu"}
    train_lm(other, data, text, tmp_path / "whole", init=taught, **options)
    losses = [entry["loss"] for entry in read_log(tmp_path / "whole" / "metrics.jsonl")]
    before, after = sum(losses[:5]) / 5, sum(losses[-5:]) / 5
    assert after < before
    first, adapted = (load_tensors(folder / "lm.safetensors") for folder in (taught, tmp_path / "whole"))
    changed = {name for name, tensor in first.items() if not torch.equal(tensor, adapted[name])}
    inside = ("attention.qkv", "attention.out", "gate_up", "down")
    assert changed == {f"blocks.{n}.{part}.weight" for n in range(MODEL.depth) for part in inside}
    for name in changed:
        assert torch.linalg.matrix_rank((adapted[name] - first[name]).double(), rtol=1e-5) == 2
    # The optimizer keeps moments of the thin matrices alone.
    moments = {name for name in newest_state(tmp_path / "whole").sizes() if name.endswith("exp_avg")}
    assert len(moments) == 2 * len(changed)
    with stopped_at_batch(7):
        train_lm(other, data, text, tmp_path / "parts", init=taught, **options)
    train_lm(other, data, text, tmp_path / "parts", resume=True, **options)
    for name in ("metrics.jsonl", "lm.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_cannot_be_adapted_is_refused(data, text, tmp_path):
    folder = tmp_path / "taught"
    wider = dataclasses.replace(MODEL, width=24, kv_heads=2)
    train_lm(recipe(model=wider, train={"steps": 1}), data, text, folder, device="cpu")
    with pytest.raises(ReelmError, match=r"^init: must have the sizes .* \(--model.width 24 --model.kv-heads 2\)"):
        train_lm(recipe(lora_rank=2), data, text, tmp_path / "out", init=folder, device="cpu")
    with pytest.raises(ReelmError, match="lora_rank: must be 0 without a trained model"):
        train_lm(recipe(lora_rank=2), data, text, tmp_path / "out", device="cpu")
    for wrong in (-1, 17):
        with pytest.raises(ReelmError, match=f"lora_rank: must be from 0 to the width, 16, got {wrong}"):
            recipe(lora_rank=wrong)
    with pytest.raises(ReelmError, match=r"lora_rank: must be 0 where guidance is distilled, or layers are divided"):
        recipe(lora_rank=2, train={"tensor": 2})
    with pytest.raises(ReelmError, match=r"lora_rank: must be 0 where guidance is distilled, or layers are divided"):
        recipe(lora_rank=2, key_guidance=2.0)
    assert not (tmp_path / "out").exists()
