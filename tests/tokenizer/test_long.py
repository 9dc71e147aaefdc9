"""Clips of any size and length: tiled and streamed is the same as whole, and memory does not grow."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.tests.examples import examples
from reelm.tokenizer.long import decode_long, encode_long, pad_picture
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.tokenizer.tiles import TiledTokenizer, tile_spans
from reelm.tokenizer.tokenizer_config import TokenizerConfig
from reelm.tokenizer.video_tokenizer import VideoTokenizer

SIZES = {"encoder_width": 8, "encoder_depth": 2, "encoder_spread": 1, "encoder_memory": 1, "decoder_widths": (12, 8),
         "decoder_depth": (2, 1), "decoder_memory": 2, "quantizer": QuantizerConfig(levels=(8, 8, 5))}  # fmt: skip


def make(**changes):
    torch.manual_seed(0)
    model = VideoTokenizer(TokenizerConfig(**(SIZES | changes))).eval().requires_grad_(False)
    for parameter in model.parameters():  # residual branches start at zero: give them something to do
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.7 / parameter[0].numel() ** 0.5)
    return model


def clip(frames, height, width, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8))


@given(st.integers(1, 200), st.integers(1, 70), st.integers(0, 9))
def test_tiles_cover_a_side_once(cells, tile, halo):
    spans = tile_spans(cells, tile, halo)
    assert [cell for span in spans for cell in range(span.start, span.stop)] == list(range(cells))
    assert all(span.stop - span.start <= tile for span in spans)
    assert all(span.low == max(0, span.start - halo) and span.high == min(cells, span.stop + halo) for span in spans)


@given(
    rows=st.integers(1, 19),
    columns=st.integers(1, 19),
    tile=st.integers(1, 9),
    stride=st.sampled_from([(4, 8), (8, 8), (8, 16)]),
)
@examples(8)
def test_tiled_equals_whole(rows, columns, tile, stride):
    temporal, side = stride
    model = make(temporal=temporal, spatial=side, front="haar")
    tiled = TiledTokenizer(model, tile)
    frames = clip(1 + 2 * temporal, side * rows, side * columns)[None]
    tokens, state = model.encode(frames), None
    parts = []
    for chunk in (frames[:, :1], *frames[:, 1:].split(temporal, 1)):
        part, state = tiled.encode_chunk(chunk, state)
        parts.append(part)
    assert torch.equal(torch.cat(parts, 1), tokens)
    whole, state, shown = model.decode(tokens), None, []
    for part in tokens.split(1, 1):
        out, state = tiled.decode_chunk(part, state)
        shown.append(out)
    assert (torch.cat(shown, 1) - whole).abs().max() < 1e-5
    assert whole.std() > 0.01


def test_one_token_less_of_halo_would_be_seen(monkeypatch):
    """The halo is exact: with a smaller one, tiles are no longer the whole picture."""
    model, frames = make(), clip(5, 128, 128)[None]
    tokens = model.encode(frames)

    halo = TokenizerConfig.decoder_halo
    monkeypatch.setattr(TokenizerConfig, "decoder_halo", property(lambda config: halo.fget(config) - 1))
    shown, _ = TiledTokenizer(model, 5).decode_chunk(tokens, None)
    assert (shown - model.decode(tokens)).abs().max() > 1e-4


@given(
    st.integers(1, 14), st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.sampled_from([2, 64]),
)  # fmt: skip
@examples(12)
def test_any_size_and_length_is_reconstructed(count, height, width, chunk, tile):
    model, frames = make(), clip(count, height, width)
    parts = list(encode_long(model, iter(frames), chunk=chunk, tile=tile))
    tokens = torch.cat(parts)
    assert tokens.shape == (1 + -(-(count - 1) // 4), -(-height // 8), -(-width // 8))
    # The rule of padding: the last frame, row and column go on.
    padded = torch.cat([frames, *[frames[-1:]] * (-(count - 1) % 4)])
    padded = torch.nn.functional.pad(
        padded.permute(0, 3, 1, 2).float(), (0, -width % 8, 0, -height % 8), mode="replicate"
    ).permute(0, 2, 3, 1)
    assert torch.equal(pad_picture(frames, 8, 8).float(), padded[:count])
    assert torch.equal(model.encode(padded.to(torch.uint8)[None])[0], tokens)
    shown = torch.cat(list(decode_long(model, parts, height=height, width=width, num_frames=count, tile=tile)))
    assert shown.shape == frames.shape and shown.dtype == torch.uint8
    whole = (model.decode(tokens[None])[0].clamp(0, 1) * 255).round()[:count, :height, :width]
    assert (shown.float() - whole).abs().max() <= 1
    assert len(torch.cat(list(decode_long(model, iter([tokens]))))) == 1 + 4 * (len(tokens) - 1)


def test_frames_are_read_only_as_far_as_needed():
    read = []

    def frames():
        for number in range(100):
            read.append(number)
            yield clip(1, 8, 8, number)[0]

    stream = encode_long(make(), frames())
    for latent_frames, seen in ((1, 1), (1, 5), (1, 9)):
        assert len(next(stream)) == latent_frames
        assert len(read) == seen


GOOD = clip(1, 8, 16)[0]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "frames: must be at least one"),
        ([GOOD.float()], "frames: must be .* uint8"),
        ([GOOD[0]], "frames: must be"),
        ([GOOD, GOOD[:4]], r"frames: must all be \(8, 16, 3\), got \(4, 16, 3\)"),
    ],
)
def test_frames_that_are_none_are_refused(frames, message):
    with pytest.raises(ReelmError, match=message):
        list(encode_long(make(), frames))


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        ([torch.zeros(1, 2, 3, dtype=torch.long)], {"height": 17}, "height: must be from 9 to 16, got 17"),
        ([torch.zeros(1, 2, 3, dtype=torch.long)], {"width": 16}, "width: must be from 17 to 24, got 16"),
        ([torch.zeros(1, 2, 3, dtype=torch.long)], {"num_frames": 2}, "num_frames: must be at most 1"),
        ([torch.zeros(1, 2, 3, dtype=torch.long)], {"tile": 0}, "tile: must be at least 1"),
        ([torch.zeros(2, 3, dtype=torch.long)], {}, "tokens: must be"),
        ([torch.zeros(1, 2, n, dtype=torch.long) for n in (3, 4)], {}, r"tokens: must be \(t, 2, 3\), got \(1, 2, 4\)"),
    ],
)
def test_tokens_and_sizes_that_do_not_belong_together_are_refused(tokens, options, message):
    with pytest.raises(ReelmError, match=message):
        list(decode_long(make(), tokens, **options))
    with pytest.raises(ReelmError, match="chunk"):
        list(encode_long(make(), [GOOD], chunk=0))


MEASURE = """
import json, sys, time
from pathlib import Path
import torch
from reelm.tokenizer.tokenizer_config import tokenizer_preset
from reelm.tokenizer.long import decode_long, encode_long
from reelm.tokenizer.video_tokenizer import VideoTokenizer
torch.set_num_threads(1)
model = VideoTokenizer(tokenizer_preset("small", sys.argv[1])).eval().requires_grad_(False)
def frames():
    for number in range(int(sys.argv[2])):
        yield torch.full((720, 1280, 3), number % 256, dtype=torch.uint8)
start, shown = time.monotonic(), 0
# Not a list of tokens: as they come, so that only the work itself is counted.
for part in decode_long(model, encode_long(model, frames()), height=720, width=1280):
    shown += len(part)
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
print(json.dumps([shown, peak, time.monotonic() - start]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a process's peak memory is read from Linux")
@pytest.mark.parametrize("compression", ["4x8x8", "8x16x16"])
def test_720p_takes_less_than_2_gb_whatever_the_length(compression):
    peaks = []
    for latent_frames in (4, 16):  # from the third on, the state that is used and the next one are in memory together
        count = 1 + int(compression[0]) * (latent_frames - 1)
        words = [sys.executable, "-c", MEASURE, compression, str(count)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        shown, peak, seconds = json.loads(done.stdout)
        assert shown == count
        peaks.append(peak)
        print(f"small {compression}, {count} frames of 1280x720: {peak:.0f} MB, {seconds:.0f} s")
    assert max(peaks) < 2000
    assert (
        peaks[1] < peaks[0] + 120
    )  # the frames that it has more are 133 or 265 MB as bytes, four times that as floats
