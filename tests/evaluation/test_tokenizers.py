"""What is measured of a tokenizer, on clips whose figures are known."""

import numpy as np
import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.evaluation import tokenizers as evaluate
from reelm.evaluation.tokenizers import count_gflops, evaluate_clips
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.tokenizer.video_tokenizer import TokenizerConfig, VideoTokenizer

pytest.importorskip("skimage")


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    config = TokenizerConfig(encoder_width=8, decoder_widths=(8, 8), decoder_depth=(1, 1),
                             quantizer=QuantizerConfig(levels=(5, 5)))  # fmt: skip
    return VideoTokenizer(config).eval()


def clip(frames, height=32, width=40, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, height, width, 3), generator=random, dtype=torch.uint8)


def test_figures_of_clips_of_several_sizes(tokenizer, tmp_path):
    clips = [("a", clip(22)), ("b", clip(1, 30, 161, seed=1)), ("c", clip(17, 176, 176, seed=2))]
    report = evaluate_clips(tokenizer, clips, chunk=2, contact_sheet=tmp_path / "sheet.png")
    assert (report["n"], report["frames"]) == (3, 40)
    assert [entry["ms_ssim"] is None for entry in report["clips"]] == [True, True, False]
    assert report["clips"][1]["flicker"] is None
    assert report["streaming_error"] < 1e-5 and report["streaming_tokens"] == 0
    # 7 latent frames of 4 x 5 tokens, 1 of 4 x 21, 5 of 22 x 22, of 25 codes.
    tokens, pixels = 7 * 20 + 84 + 5 * 484, 22 * 32 * 40 + 30 * 161 + 17 * 176 * 176
    assert report["bits_per_pixel"] == pytest.approx(np.log2(25) * tokens / pixels)
    assert 1 <= report["perplexity"] <= 25 and report["codebook_use"] <= 1
    assert (tmp_path / "sheet.png").is_file()


def test_a_perfect_tokenizer_and_one_with_a_seam(tokenizer, monkeypatch):
    given = clip(33) // 2

    def decoded(_, parts, **__):
        """Off by one, but for the latent frame after a border, where the error is `seam`."""
        shown, ends = given.clone(), np.cumsum([len(part) for part in parts])
        shown[1:] += min(seam, 1)
        for end in ends[:-1]:
            shown[1 + 4 * (end - 1) : 1 + 4 * end] = given[1 + 4 * (end - 1) : 1 + 4 * end] + seam
        yield shown[: 1 + 4 * (ends[-1] - 1)]

    monkeypatch.setattr(evaluate, "decode_long", decoded)
    seam = 0
    report = evaluate_clips(tokenizer, [("a", given)])
    assert (report["psnr"], report["flicker"], report["border_gap"]) == (100, 0, 0)
    assert report["ssim"] == pytest.approx(1)
    seam = 16
    for chunk in (1, 2, 3, 4, 5):
        report = evaluate_clips(tokenizer, [("a", given)], chunk=chunk)
        assert report["border_gap"] == pytest.approx(20 * np.log10(16), abs=1e-3)
    assert evaluate_clips(tokenizer, [("a", given[:17])], chunk=5)["border_gap"] is None


class Network(torch.nn.Module):
    """Both signatures at once; features are the mean of each channel."""

    def forward(
        self, inputs: torch.Tensor, resize_images: bool = True, return_lpips: bool = False, rescale: bool = False,
        resize: bool = False, return_features: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        assert (return_lpips and not resize_images) != (rescale and resize and return_features)
        return inputs.flatten(2).mean(2) / 255


def test_motion_and_the_metrics_of_the_user_s_networks(tokenizer, tmp_path, monkeypatch):
    torch.jit.script(Network()).save(tmp_path / "network.pt")
    grey = torch.full((10, 16, 16, 3), 100, dtype=torch.uint8)
    monkeypatch.setattr(evaluate, "decode_long", lambda *_, **__: iter([grey + 51]))
    clips = [("a", grey), ("b", grey)]
    plain = evaluate_clips(tokenizer, clips)
    assert (plain["warping_error"], plain["warping_error_of_the_truth"], plain["warping_trusted"]) == (0, 0, 1)
    assert not {"lpips", "fvd"} & set(plain)
    report = evaluate_clips(tokenizer, clips, lpips_weights=tmp_path / "network.pt")
    assert report["lpips"] == report["clips"][1]["lpips"] == pytest.approx(3 * 0.2**2)
    assert "fvd" not in report
    report = evaluate_clips(tokenizer, clips, fvd_weights=tmp_path / "network.pt", fvd_frames=10)
    assert report["fvd"] == pytest.approx(3 * 0.2**2)
    assert (report["fvd_n"], report["fvd_frames"], report["fvd_left_out"]) == (2, 10, 0)
    short = evaluate_clips(tokenizer, clips, fvd_weights=tmp_path / "network.pt")
    assert (short["fvd"], short["fvd_n"], short["fvd_frames"], short["fvd_left_out"]) == (None, 0, 16, 2)
    assert short["psnr"] == report["psnr"]  # is not lost
    narrow = [("a", grey[:, :15])]
    monkeypatch.setattr(evaluate, "decode_long", lambda *_, **__: iter([grey[:, :15]]))
    assert evaluate_clips(tokenizer, narrow, lpips_weights=tmp_path / "network.pt")["lpips"] is None


def test_gflops_are_those_of_the_products(tokenizer):
    counted = count_gflops(tokenizer)
    twice = sum(p.numel() for p in tokenizer.decoder.parameters() if p.ndim > 1) * 2 * 5 * 16 * 16 / 1e9
    assert counted["decode_gflops"] > twice  # at least once for every token; stages of more pixels cost more
    assert counted["encode_gflops"] > 0


def test_what_cannot_be_measured_is_refused(tokenizer, monkeypatch):
    with pytest.raises(ReelmError, match=r"^clips: must be at least one, got 0"):
        evaluate_clips(tokenizer, [])
    with pytest.raises(ReelmError, match=r"^chunk: must be at least 1, got 0"):
        evaluate_clips(tokenizer, [], chunk=0)
    monkeypatch.setitem(__import__("sys").modules, "skimage.registration", None)
    with pytest.raises(ReelmError, match=r"^evaluate: needs scikit-image"):
        evaluate_clips(tokenizer, [("a", clip(1))])
