"""The benchmark of a tokenizer: what it counts, what it compares, what it refuses."""

import statistics

import pytest
import torch

from reelm.bench import codec as benchmark
from reelm.bench.codec import benchmark_tokenizer, random_tokenizer
from reelm.core.errors import ReelmError
from reelm.evaluation.tokenizers import count_gflops
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.tokenizer.tokenizer_config import TokenizerConfig
from reelm.tokenizer.video_tokenizer import VideoTokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return random_tokenizer("tiny", "4x8x8", device="cpu")


def test_times_are_medians_and_ratios_those_of_pairs(tokenizer, monkeypatch):
    """Ours and the baseline in turns: a round in which the machine is slow is slow for both."""
    turns, seconds = [], {}

    def run(network, clip):
        ours = isinstance(network, VideoTokenizer)
        slow = (1, 10, 1)[sum(turns) if ours else sum(turns) - 1]
        turns.append(ours)
        seconds[ours] = seconds.get(ours, 0) + 1
        return (
            (slow * 0.001, slow * 0.003) if ours else (slow * 0.002, slow * (0.004, 0.004, 0.009)[seconds[False] - 1])
        )

    monkeypatch.setattr(benchmark, "_run", run)
    monkeypatch.setattr(benchmark.CosmosConfig, "channels", 8)
    monkeypatch.setattr(benchmark, "measure_ceilings", lambda device, dtype, check: {})
    report = benchmark_tokenizer(tokenizer, num_frames=5, height=16, width=16, repeats=3)
    assert turns == [True, False] * 3
    ours, baseline = report["rows"]
    assert [ours[name] for name in ("encode_ms", "decode_ms", "both_ms")] == pytest.approx([1, 3, 4])
    assert ours["rounds_ms"] == pytest.approx([4, 40, 4])
    assert [ours[name] for name in ("encode_ratio", "decode_ratio", "ratio")] == pytest.approx([2, 4 / 3, 1.5])
    assert statistics.median(baseline["rounds_ms"]) / ours["both_ms"] == pytest.approx(2.75)  # not the ratio
    assert baseline["ratio"] == baseline["encode_ratio"] == baseline["decode_ratio"] == 1
    assert ours["frames_per_second"] == pytest.approx(5 / 0.004)
    assert ours["gflop_s"] == pytest.approx((ours["encode_gflops"] + ours["decode_gflops"]) / 0.004)


def test_sizes_and_options_count(tokenizer, monkeypatch):
    monkeypatch.setattr(benchmark, "measure_ceilings", lambda device, dtype, check: {"copy_gb_s": 1.0})
    report = benchmark_tokenizer(tokenizer, repeats=1, baselines=False)
    (row,) = report["rows"]
    assert report["copy_gb_s"] == 1
    assert (report["num_frames"], report["height"], report["width"], report["tokens"]) == (17, 128, 128, 5 * 16 * 16)
    wanted = count_gflops(tokenizer)
    assert {name: row[name] for name in wanted} == pytest.approx(wanted)
    assert row["parameters"] == sum(parameter.numel() for parameter in tokenizer.parameters())
    assert "ratio" not in row and report["left_out"] == {}
    small = benchmark_tokenizer(
        tokenizer, name="mine", num_frames=5, height=16, width=24, batch=2, repeats=2, baselines=False
    )
    assert (small["tokenizer"], small["tokens"], small["repeats"]) == ("mine", 2 * 2 * 2 * 3, 2)
    assert len(small["rows"][0]["rounds_ms"]) == 2
    assert small["rows"][0]["encode_gflops"] < row["encode_gflops"]
    shown = str(small)
    assert f"{small['rows'][0]['both_ms']:.4g}" in shown and "\n\nrow " in shown


@pytest.mark.parametrize(("compression", "dtype"), [("4x8x8", "float32"), ("8x16x16", "bfloat16")])
def test_a_check_runs_both_on_the_same_clip_in_the_same_dtype(compression, dtype, monkeypatch):
    seen, run = [], benchmark._run

    def spy(network, clip):
        tokens_Bthw = network.encode(clip)
        seen.append(
            (clip, tokens_Bthw.shape, network.decode(tokens_Bthw).shape, {p.dtype for p in network.parameters()})
        )
        return run(network, clip)

    monkeypatch.setattr(benchmark, "_run", torch.inference_mode()(spy))
    report = benchmark_tokenizer(
        random_tokenizer("tiny", compression, device="cpu", dtype=dtype), check=True, repeats=9
    )
    ours, baseline = seen  # one round
    assert ours[0] is baseline[0] and ours[0].dtype == torch.uint8
    assert ours[1:] == baseline[1:] == ((1, 2, 2, 2), ours[0].shape, {getattr(torch, dtype)})
    assert (report["compression"], report["dtype"]) == (compression, dtype)
    assert "narrow" in report["rows"][1]["note"]
    assert not any("ratio" in row for row in report["rows"])


def test_random_weights_are_of_the_size_and_none_is_zero(tokenizer):
    config = random_tokenizer("tiny", "8x16x16", device="cpu").config
    assert (config.temporal, config.spatial, config.encoder_width) == (8, 16, 48)
    assert all(parameter.any() for parameter in tokenizer.parameters() if parameter.ndim > 1)


def test_what_cosmos_has_not_is_left_out():
    config = TokenizerConfig(temporal=2, encoder_width=8, decoder_widths=(8, 8), decoder_depth=(1, 1),
                             quantizer=QuantizerConfig(levels=(5, 5)))  # fmt: skip
    report = benchmark_tokenizer(VideoTokenizer(config).eval(), check=True)
    assert [row["row"] for row in report["rows"]] == ["reelm"]
    assert report["left_out"] == {"cosmos": "no such compression"}
    assert benchmark_tokenizer(VideoTokenizer(config).eval(), check=True, baselines=False)["left_out"] == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch: must be at least 1, got 0"),
        ({"repeats": 0}, "repeats: must be at least 1, got 0"),
        ({"num_frames": 16}, "num_frames: must be 1 .* a multiple of 4, got 16"),
        ({"height": 100}, "height: must be a multiple of 8, got 100"),
    ],
)
def test_a_bad_argument_is_refused(tokenizer, options, message):
    with pytest.raises(ReelmError, match=message):
        benchmark_tokenizer(tokenizer, **options)
