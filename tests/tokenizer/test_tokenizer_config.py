"""The presets: how large, how dear and how far they see. docs/tokenizer.md says the same."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reelm.core.errors import ReelmError
from reelm.tokenizer.network import Decoder, Encoder
from reelm.tokenizer.tokenizer_config import COMPRESSIONS, PRESETS, TokenizerConfig, tokenizer_preset
from reelm.tokenizer.video_tokenizer import VideoTokenizer


def gflops(config: TokenizerConfig) -> tuple[float, float]:
    with torch.device("meta"):
        frames = config.compression.latent_frames(17)
        groups = torch.zeros(frames, 3 * config.temporal, 128, 128)
        with FlopCounterMode(display=False) as encoding:
            latents, _ = Encoder(config)(groups, frames, None)
        with FlopCounterMode(display=False) as decoding:
            shown, _ = Decoder(config)(latents, frames, None)
    assert shown.shape == groups.shape
    return encoding.get_total_flops() / 1e9, decoding.get_total_flops() / 1e9


def test_flops_are_counted_as_two_for_each_multiply_add():
    with FlopCounterMode(display=False) as counter:
        torch.nn.Conv2d(3, 5, 1)(torch.zeros(1, 3, 7, 7))
    assert counter.get_total_flops() == 2 * 3 * 5 * 7 * 7


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("name", PRESETS)
def test_parameters_and_flops(name, compression, root):
    config = tokenizer_preset(name, compression)
    with torch.device("meta"):
        parts = Encoder(config), Decoder(config)
    millions = sum(p.numel() for part in parts for p in part.parameters()) / 1e6
    least, most = {"tiny": (0.8, 1.7), "small": (7.5, 10.2), "base": (90, 105)}[name]
    assert least <= millions <= most
    encoding, decoding = gflops(config)
    row = f"| `{name}` | {compression} | {millions:.2f} | {encoding:.1f} | {decoding:.1f} | {encoding + decoding:.1f} |"
    assert row in (root / "docs" / "tokenizer.md").read_text(encoding="utf-8")


def test_base_costs_less_than_400_gflops():
    assert sum(gflops(tokenizer_preset("base", "4x8x8"))) < 400


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_preset_makes_clips(compression):
    config = tokenizer_preset("tiny", compression)
    model, (t, h, w) = VideoTokenizer(config).eval(), map(int, compression.split("x"))
    frames = torch.randint(256, (1, 1 + t, 2 * h, 3 * w, 3), dtype=torch.uint8)
    with torch.no_grad():
        tokens = model.encode(frames)
        assert tokens.shape == (1, 2, 2, 3)
        assert model.decode(tokens).shape == frames.shape


def test_vocabularies():
    assert tokenizer_preset("base", "8x16x16").quantizer.vocab_size == 64_000
    assert tokenizer_preset("small", "4x8x8").quantizer.vocab_size <= 4096


@pytest.mark.parametrize(
    ("name", "compression", "message"),
    [
        ("huge", "4x8x8", "preset: must be one of tiny, small, base"),
        ("tiny", "2x8x8", "compression: must be one of 4x8x8"),
    ],
)
def test_unknown_ones_are_refused(name, compression, message):
    with pytest.raises(ReelmError, match=message):
        tokenizer_preset(name, compression)
