"""Presets: the sizes of their models, random weights, what they take, and when they are refused."""

import pytest
import torch

from reelm.bench.presets import PRESETS, preset_config, preset_parts, preset_plan
from reelm.bench.sampling import benchmark
from reelm.core.errors import ReelmError
from reelm.generation.generator import VideoGenerator
from reelm.generation.memory_plan import MIB, show_bytes
from reelm.lm.neighbours import order_tables
from reelm.lm.transformer import VideoTransformer


def weights_of(name):
    """Elements of the weights that every token reads, and keys and values of a token."""
    config = preset_config(name).lm
    with torch.device("meta"):
        model = VideoTransformer(config)
    layers = sum(parameter.numel() for parameter in model.blocks.parameters())
    return layers, model.head.weight.numel(), 2 * config.depth * config.kv_heads * config.head_dim


def test_cosmos_has_the_layers_the_head_and_the_cache_of_the_original():
    layers, head, token = weights_of("cosmos-4b")
    assert (layers + head) * 2 == pytest.approx(7.5e9, rel=0.01)  # bytes that a token reads in bfloat16
    assert token * 2 == 64 * 1024
    config = preset_config("cosmos-4b")
    assert (config.lm.layout.frame_size, config.lm.layout.frame_size * config.lm.window) == (2560, 12800)
    assert (config.height, config.width, config.tokenizer.temporal) == (640, 1024, 8)


def test_emu3_has_the_layers_and_the_positions_of_the_original():
    layers, head, token = weights_of("emu3-8b")
    # 8.5 billion with two embeddings of 184,622 entries, which are not here.
    assert layers + 2 * 184_622 * 4096 == pytest.approx(8.5e9, rel=0.01)
    assert (head, token * 2) == (32768 * 4096, 128 * 1024)
    config = preset_config("emu3-8b")
    assert config.lm.layout.frame_size * config.lm.window == 9216


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_that_does_not_fit_is_refused_before_it_is_made(name, monkeypatch):
    plan = preset_plan(name, seconds=0.01, keep_state=False)
    monkeypatch.setattr("reelm.bench.presets.available_memory", lambda place: plan.total // 2)
    monkeypatch.setattr("reelm.bench.presets.random_transformer", lambda *_: pytest.fail("allocated"))
    with pytest.raises(ReelmError) as refusal:
        preset_parts(name, device="cpu")
    assert f"must be at least {show_bytes(plan.total)} for 1 clips" in str(refusal.value)
    assert str(refusal.value).endswith(f"got {show_bytes(plan.total // 2)}")


def test_a_plan_counts_the_weights_and_no_files():
    on_gpu = preset_plan("cosmos-4b", device="cuda")
    assert on_gpu.weights == pytest.approx(7.5e9, rel=0.02)
    assert (on_gpu.loading, on_gpu.dtype) == (0, "bfloat16")
    assert preset_plan("cosmos-4b").loading == 4 * 64000 * 4096
    assert preset_plan("cosmos-4b", dtype="bfloat16").loading == 0
    assert preset_plan("cosmos-4b", batch=4, device="cuda").cache == 4 * on_gpu.cache
    assert preset_plan("cosmos-4b", check=True).weights < 100 * MIB


@pytest.mark.parametrize("name", PRESETS)
def test_the_weights_are_random_and_the_same_every_time(name):
    first, second = (preset_parts(name, device="cpu", dtype="bfloat16", check=True) for _ in range(2))
    weights = dict(first.lm.state_dict())
    assert all(torch.equal(weights[key], value) for key, value in second.lm.state_dict().items())
    assert all(value.dtype == torch.bfloat16 for value in weights.values())
    assert weights["blocks.1.gate_up.weight"].float().std() == pytest.approx(0.02, rel=0.05)
    assert (weights["norm.weight"] == 1).all()
    assert first.random and "random weights" in first.name
    fresh = VideoTransformer(first.config.lm)  # the tables are not weights, and are there nonetheless
    for name in order_tables(fresh.config.layout):
        assert torch.equal(getattr(first.lm, name), getattr(fresh, name))


@pytest.mark.parametrize("name", PRESETS)
def test_its_benchmark_checks_the_rows_and_tells_of_tokens_alone(name, monkeypatch):
    parts = preset_parts(name, device="cpu", check=True)
    monkeypatch.setattr(parts.tokenizer, "decode_frame", lambda *_: pytest.fail("pixels"))
    report = benchmark(VideoGenerator(parts), check=True, baselines=False, temperature=0.0)
    assert [(row["ok"], row["mismatching_tokens"]) for row in report["rows"]] == [(True, 0)] * 3
    assert report["tokens_per_second"] > 0
    assert not {"frames_per_second", "times_realtime", "first_frame_seconds", "total_seconds"} & set(report)
    assert "not decoded" in str(report)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ReelmError, match="preset: must be one of cosmos-4b, emu3-8b, llama-27m, got 'sora'"):
        preset_parts("sora")
