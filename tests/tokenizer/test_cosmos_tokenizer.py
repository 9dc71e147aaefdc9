"""The networks of Cosmos' tokenizers against a plain statement of them, at once and as a stream."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reelm.core.errors import ReelmError
from reelm.tests.tokenizer import plain_cosmos
from reelm.tokenizer.cosmos_config import CosmosConfig
from reelm.tokenizer.cosmos_layers import Stream
from reelm.tokenizer.cosmos_tokenizer import CosmosTokenizer

SIZES = {"channels": 8, "multipliers": (2, 3, 3), "blocks": 1, "latent_channels": 5}
COMPRESSIONS = [(4, 8), (8, 8), (8, 16)]


def make(temporal, spatial, **sizes):
    """Return a small tokenizer of random weights, with latents of `clip` that are spread over the codes."""
    torch.manual_seed(temporal + spatial)
    tokenizer = CosmosTokenizer(CosmosConfig(temporal=temporal, spatial=spatial, **SIZES | sizes))
    for name, parameter in tokenizer.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.8 / math.sqrt(parameter[0].numel()))
        elif "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.2)
    tokenizer.eval().requires_grad_(False)
    layer, (_, found) = tokenizer.quant_conv.conv3d, encode(tokenizer, clip(tokenizer))
    spread, mean = found.std((0, 2, 3, 4)), found.mean((0, 2, 3, 4))
    layer.weight /= spread[:, None, None, None, None]
    layer.bias.copy_((layer.bias - mean) / spread)
    return tokenizer


def encode(tokenizer, frames):
    """Return the tokens of clips, and the latents (B, D, t, h, w)."""
    found = []
    with tokenizer.quant_conv.register_forward_hook(lambda module, inputs, output: found.append(output)):
        return tokenizer.encode(frames), found[0]


def sizes_of(config):
    return {name: getattr(config, name) for name in ("temporal", "spatial", "patch", "multipliers", "blocks", "levels")}


def clip(tokenizer, latent_frames=3, rows=2, columns=3):
    """Return a clip whose tokens differ: coarse random colours of each frame, with noise on them."""
    side, random = tokenizer.compression, torch.Generator().manual_seed(1)
    coarse = torch.rand(1, side.frames(latent_frames), 2 * rows, 2 * columns, 3, generator=random)
    frames = coarse.repeat_interleave(side.h // 2, 2).repeat_interleave(side.w // 2, 3)
    return 0.8 * frames + 0.2 * torch.rand(frames.shape, generator=random)


@pytest.mark.parametrize(("temporal", "spatial"), COMPRESSIONS)
def test_it_is_the_plain_statement(temporal, spatial):
    tokenizer = make(temporal, spatial)
    frames, sizes, weights = clip(tokenizer), sizes_of(tokenizer.config), tokenizer.state_dict()
    tokens, latents = encode(tokenizer, frames)
    plain = plain_cosmos.encode(weights, frames[0].permute(0, 3, 1, 2) * 2 - 1, sizes)
    assert latents[0].std(1).min() > 1e-3, "frames differ"
    torch.testing.assert_close(latents[0].permute(1, 2, 3, 0), plain, atol=1e-4, rtol=0)
    assert tokens.unique().numel() >= 6 and torch.equal(tokens[0], plain_cosmos.quantize(plain, sizes["levels"]))
    shown = plain_cosmos.decode(weights, tokens[0], sizes).permute(0, 2, 3, 1)
    decoded = tokenizer.decode(tokens)
    assert decoded.shape == frames.shape and decoded.std() > 0.01
    torch.testing.assert_close(decoded[0] * 2 - 1, shown, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("temporal", "spatial"), COMPRESSIONS)
def test_a_stream_is_the_whole_clip(temporal, spatial):
    tokenizer = make(temporal, spatial)
    frames = clip(tokenizer, 5)
    whole, state, tokens = tokenizer.encode(frames), None, []
    for chunk in (frames[:, :1], *frames[:, 1 : 1 + 3 * temporal].split(temporal, 1), frames[:, 1 + 3 * temporal :]):
        part, state = tokenizer.encode_chunk(chunk, state)
        tokens.append(part)
    assert torch.equal(torch.cat(tokens, 1), whole)
    at_once, state, parts = tokenizer.decode(whole), None, []
    for latent in whole.split(1, 1):
        part, state = tokenizer.decode_chunk(latent, state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), at_once, atol=1e-5, rtol=0)


def test_it_has_the_parameters_and_gflops_of_dv4x8x8():
    with torch.device("meta"):
        tokenizer = CosmosTokenizer(CosmosConfig(temporal=4, spatial=8))
        with FlopCounterMode(display=False) as encoding:
            tokenizer.quant_conv(tokenizer.encoder(torch.zeros(1, 3, 17, 128, 128), Stream(None)), Stream(None))
        with FlopCounterMode(display=False) as decoding:
            tokenizer.decoder(tokenizer.post_quant_conv(torch.zeros(1, 6, 5, 16, 16), Stream(None)), Stream(None))
    assert sum(parameter.numel() for parameter in tokenizer.parameters()) == pytest.approx(112e6, rel=0.03)
    assert encoding.get_total_flops() == pytest.approx(134e9, rel=0.03)
    assert decoding.get_total_flops() == pytest.approx(370e9, rel=0.03)


def test_rows_in_different_phases_are_decoded_as_they_are_alone():
    tokenizer = make(4, 8)
    clips = torch.randint(64000, (3, 4, 2, 2), generator=torch.Generator().manual_seed(2))
    states, shown = [None, None, None], [[], [], []]
    for step in range(4):  # the last row comes a latent frame later
        rows = [row for row in range(3) if step - (row == 2) >= 0]
        tokens = torch.stack([clips[row, step - (row == 2)] for row in rows])
        frames, after = tokenizer.decode_frame(tokens, [states[row] for row in rows])
        for row, frame, state in zip(rows, frames, after, strict=True):
            shown[row].append(frame)
            states[row] = state
    for row in range(3):
        alone = tokenizer.decode(clips[row : row + 1, : len(shown[row])])[0]
        torch.testing.assert_close(torch.cat(shown[row]), alone, atol=1e-5, rtol=0)


def test_all_ids_are_codes_and_back():
    tokenizer = CosmosTokenizer(CosmosConfig(**SIZES))
    ids = torch.arange(64000)
    codes = tokenizer.quantizer.codes(ids[None])[0]
    levels = torch.tensor(tokenizer.config.levels)
    digits = (codes * (levels // 2) + levels // 2).round().long()
    assert torch.equal((digits * torch.tensor([1, 8, 64, 512, 2560, 12800])).sum(1), ids)
    assert digits.min() == 0 and torch.equal(digits.amax(0), levels - 1)


@pytest.mark.parametrize(("temporal", "spatial"), COMPRESSIONS)
def test_a_frame_depends_on_no_more_latent_frames_than_memory_says(temporal, spatial):
    tokenizer = make(temporal, spatial, attended_frames=2)
    memory, length = tokenizer.memory, tokenizer.memory + 3
    tokens = torch.randint(64000, (1, length, 1, 1), generator=torch.Generator().manual_seed(3))
    whole = tokenizer.decode(tokens)
    parts = tokenizer.decode(tokens[:, 2:])  # begun two latent frames later
    last = temporal * (length - 2 - memory)
    torch.testing.assert_close(parts[:, -last:], whole[:, -last:], atol=1e-5, rtol=0)
    changed = tokens.clone()
    changed[:, 0] = (changed[:, 0] + 32000) % 64000
    far = (tokenizer.decode(changed) - whole).abs().amax((0, 2, 3, 4))
    assert far[tokenizer.compression.frames(memory + 1) :].max() < 1e-5 < far[tokenizer.compression.frames(3) - 1]


def test_what_does_not_fit_is_refused():
    tokenizer = make(8, 16)
    with pytest.raises(ReelmError, match="num_frames: must be 1 \\+ a multiple of 8, got 8"):
        tokenizer.encode(torch.zeros(1, 8, 32, 32, 3))
    with pytest.raises(ReelmError, match="height: must be a multiple of 16, got 24"):
        tokenizer.encode(torch.zeros(1, 9, 24, 32, 3))
    with pytest.raises(ReelmError, match="tokens: must be from 0 to 63999"):
        tokenizer.decode(torch.full((1, 1, 2, 2), 64000))
    with pytest.raises(ReelmError, match="spatial: must be 4 times a power of two up to 2\\^2, got 64"):
        CosmosConfig(spatial=64)
