"""The network of the shape of Cosmos: as large and as dear as the original, and really a codec."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reelm.bench.cosmos_baseline import CosmosShape, cosmos_decoder, cosmos_encoder
from reelm.core.errors import ReelmError
from reelm.core.layout import Compression
from reelm.tokenizer.tokenizer_config import COMPRESSIONS


def compression_of(name):
    return Compression(*map(int, name.split("x")))


def test_it_has_the_parameters_and_gflops_of_dv4x8x8():
    with torch.device("meta"):
        encoder, decoder = cosmos_encoder(Compression(4, 8, 8)), cosmos_decoder(Compression(4, 8, 8))
        patches = torch.zeros(1, 192, 5, 32, 32)  # of 17 x 128 x 128
        with FlopCounterMode(display=False) as encoding:
            latents = encoder(patches)
        with FlopCounterMode(display=False) as decoding:
            assert decoder(latents).shape == patches.shape
    assert latents.shape == (1, 6, 5, 16, 16)
    parameters = sum(p.numel() for part in (encoder, decoder) for p in part.parameters())
    assert parameters == pytest.approx(112e6, rel=0.03)
    assert encoding.get_total_flops() == pytest.approx(134e9, rel=0.03)
    assert decoding.get_total_flops() == pytest.approx(370e9, rel=0.03)


@pytest.mark.parametrize("name", COMPRESSIONS)
@torch.inference_mode()
def test_it_turns_clips_into_tokens_and_tokens_into_clips(name):
    torch.manual_seed(0)
    stride = compression_of(name)
    baseline = CosmosShape(stride, channels=8)
    for parameter in baseline.parameters():  # large weights, so that a clip does change its tokens
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=2 * parameter[0].numel() ** -0.5)
    clip_BTHW3 = torch.randint(256, (2, 1 + 2 * stride.t, 2 * stride.h, 3 * stride.w, 3), dtype=torch.uint8)
    tokens_Bthw = baseline.encode(clip_BTHW3)
    assert (tokens_Bthw.shape, tokens_Bthw.dtype) == ((2, 3, 2, 3), torch.int64)
    assert tokens_Bthw.min() >= 0 and tokens_Bthw.max() < 64000
    assert torch.equal(baseline.encode(clip_BTHW3.float() / 255), tokens_Bthw)
    shown_BTHW3 = baseline.decode(tokens_Bthw)
    assert (shown_BTHW3.shape, shown_BTHW3.dtype) == (clip_BTHW3.shape, torch.float32)

    # Causal both ways, and the last latent frame counts.
    other_BTHW3 = clip_BTHW3.clone()
    other_BTHW3[:, -stride.t :] = 255 - other_BTHW3[:, -stride.t :]
    others_Bthw = baseline.encode(other_BTHW3)
    assert torch.equal(others_Bthw[:, :2], tokens_Bthw[:, :2])
    assert not torch.equal(others_Bthw[:, 2], tokens_Bthw[:, 2])
    changed_Bthw = tokens_Bthw.clone()
    changed_Bthw[:, 2] = (changed_Bthw[:, 2] + 32000) % 64000
    changed_BTHW3 = baseline.decode(changed_Bthw)
    torch.testing.assert_close(changed_BTHW3[:, : -stride.t], shown_BTHW3[:, : -stride.t])
    assert (changed_BTHW3[:, -stride.t :] - shown_BTHW3[:, -stride.t :]).abs().max() > 1e-3


@torch.inference_mode()
def test_the_front_loses_nothing():
    baseline, kept = CosmosShape(Compression(4, 8, 8), channels=8), {}
    clip_BTHW3 = torch.randint(256, (1, 9, 16, 24, 3), dtype=torch.uint8)
    baseline.encoder.register_forward_pre_hook(lambda _, given: kept.update(patches=given[0]))
    baseline.decoder.register_forward_hook(lambda *_: kept["patches"])
    shown_BTHW3 = baseline.decode(baseline.encode(clip_BTHW3))
    assert kept["patches"].shape == (1, 192, 3, 4, 6)
    torch.testing.assert_close(shown_BTHW3, clip_BTHW3 / 255, atol=1e-5, rtol=0)


@pytest.mark.parametrize("stride", [(2, 8, 8), (4, 4, 4), (4, 8, 16), (16, 16, 16)])
def test_what_was_not_published_is_refused(stride):
    with pytest.raises(ReelmError, match="compression: must be one of 4x8x8, 8x8x8, 4x16x16, 8x16x16"):
        CosmosShape(Compression(*stride))
