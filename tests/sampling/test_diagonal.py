"""The wavefront: exact where it waits for all that lies before, and never looking at what is not drawn elsewhere."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.core.token_order import lattices
from reelm.lm.cache import RingCache
from reelm.lm.lm_config import LMConfig
from reelm.lm.transformer import VideoTransformer
from reelm.sampling.diagonal import Diagonal, waves
from reelm.tests.examples import examples

PROMPTS = ["a red ball moves left", [(0, "grass"), (0.7, "a blue ring")]]


@pytest.fixture(scope="module", params=["debug_checkpoint", "coarse_checkpoint"], ids=["raster", "coarse"])
def generator(request):
    from reelm import VideoGenerator

    return VideoGenerator.from_pretrained(request.getfixturevalue(request.param), device="cpu")


@examples(40)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), frames=st.integers(1, 2), delay=st.integers(1, 12))
def test_every_token_is_drawn_once_after_what_it_sees(rows, columns, frames, delay):
    drawn, count = set(), frames * rows * columns
    found = waves(rows, columns, frames, delay)
    for wave in found:
        now = set(wave.offsets)
        assert len(now) == len(wave.offsets) and not now & drawn
        for offset, sees_A in zip(wave.offsets, wave.sees_LA, strict=True):
            assert set(sees_A.nonzero()[:, 0].tolist()) == {a for a in drawn | now if a <= offset}
            frame, y, x = offset // (rows * columns), offset // columns % rows, offset % columns
            before = [(frame, y, x - 1), (frame, y - 1, x), (frame - 1, y, x), (frame - 1, y + 1, x)]
            before += [(frame, y - 1, x + 1)] * (delay > 1)
            for f, v, u in before:  # the nearest neighbours that make a token's input are known to it
                if f >= 0 and 0 <= v < rows and 0 <= u < columns:
                    assert (f * rows + v) * columns + u in drawn
        drawn |= now
    assert drawn == set(range(count))
    assert all(wave.offsets for wave in found)
    if columns > 1:
        passes = (rows - 1) * min(delay, columns) + columns
        assert len(found) <= passes + (frames - 1) * max(-(-passes // 2), min(delay, columns) + 1)


@examples(40)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9), delay=st.integers(1, 12))
def test_of_lattices_every_token_is_drawn_once_after_what_it_sees(rows, columns, delay):
    drawn = set()
    for wave in waves(rows, columns, 1, delay, "coarse"):
        now = set(wave.offsets)
        assert now and len(now) == len(wave.offsets) and not now & drawn
        # Where two are drawn at once, they are of one lattice.
        assert any(now <= set(range(first, first + size)) for first, size in lattice_ranges(rows, columns))
        for offset, sees_A in zip(wave.offsets, wave.sees_LA, strict=True):
            assert set(sees_A.nonzero()[:, 0].tolist()) == {a for a in drawn | now if a <= offset}
        drawn |= now
    assert drawn == set(range(rows * columns))
    assert len(waves(rows, columns, 1, delay, "coarse")) == sum(
        min(delay, size) for _, size in lattice_ranges(rows, columns)
    )


def lattice_ranges(rows, columns):
    sizes = [len(lattice) for lattice in lattices(rows, columns)]
    return [(sum(sizes[:number]), size) for number, size in enumerate(sizes)]


@pytest.mark.parametrize(
    "options", [{}, {"guidance_scale": 1.0, "top_p": 0.8}, {"temperature": [(0, 1.2), (0.6, 0.4)]}]
)
def test_waiting_for_the_whole_row_is_sequential(generator, options):
    options = {"prompt": PROMPTS, "seed": [1, 2], "num_frames": [9, 13], **options}
    oracle = generator.generate(**options, decoder="sequential")
    lm = generator.parts.config.lm
    # A row, or the largest lattice: a quarter of the picture.
    enough = lm.columns if lm.order == "raster" else lm.frame_size // 4
    found = generator.generate(**options, decoder=Diagonal(enough, frames=1))
    for video, wanted in zip(found, oracle, strict=True):
        assert np.array_equal(video.tokens, wanted.tokens)


@pytest.mark.parametrize("frames", [1, 2])
def test_fewer_passes_and_the_same_alone_in_a_batch_streamed_or_continued(generator, frames):
    decoder = Diagonal(delay=1, frames=frames)
    options = {"seed": [1, 2], "num_frames": [13, 21], "decoder": decoder}
    videos = generator.generate(PROMPTS, **options)
    assert videos[0].stats["exactness"] == "approximate"
    lm = generator.parts.config.lm
    passes = lm.rows + lm.columns - 1 if lm.order == "raster" else len(lattices(lm.rows, lm.columns))
    assert videos[0].stats["tokens_per_pass"] >= lm.frame_size / passes
    alone = generator.generate(PROMPTS[1], seed=2, num_frames=21, decoder=decoder)
    # Two frames under way reach over a border that another clip of the batch may have; lattices never are.
    if frames == 1 or lm.order == "coarse":
        assert np.array_equal(alone.tokens, videos[1].tokens)
    streamed = np.concatenate(list(generator.stream(PROMPTS[1], seed=2, num_frames=21, decoder=decoder)))
    assert np.array_equal(streamed, alone.frames)
    if frames == 1:
        part = generator.generate(PROMPTS[1], seed=2, num_frames=9, decoder=decoder)
        rest = generator.continue_clip(part, num_frames=12, decoder=decoder)
        assert np.array_equal(rest.tokens, alone.tokens[: len(rest.tokens)])


@torch.no_grad()
def test_a_wave_sees_what_it_says_and_nothing_else():
    torch.manual_seed(0)
    config = LMConfig(vocab_size=19, rows=3, columns=4, window=3, text_vocab_size=11, prefix=5, width=32, depth=2,
                      heads=4, kv_heads=2, head_dim=12, hidden=32, neighbour_dim=8)  # fmt: skip
    model = VideoTransformer(config).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.randint(19, (1, 7 * 12))

    def filled():
        cache = RingCache(config, 1, torch.device("cpu"), torch.float32)
        model.prefill(cache, torch.randint(11, (1, 5), generator=torch.Generator().manual_seed(1)), torch.tensor([4]))
        for start in range(0, 5 * 12, 12):
            cache.put_tokens(tokens[:, start : start + 12])
            model.step(cache, 12)
            cache.advance(12)
        cache.put_tokens(tokens[:, 60:72])
        return cache

    # All in one wave that sees what is before it is a plain step; a part of it is a part of that.
    wanted = model.step(filled(), 12)
    offsets = tuple(range(12))
    causal = torch.ones(12, 12, dtype=torch.bool).tril()
    torch.testing.assert_close(model.step(filled(), 12, offsets, causal), wanted)
    cache = filled()
    model.step(cache, 12, offsets[:7], causal[:7])
    torch.testing.assert_close(model.step(cache, 12, offsets[7:], causal[7:]), wanted[:, 7:])
    # What is not among the ancestors may hold anything.
    blind = causal.clone()
    blind[:, 3] = False
    one, other = filled(), filled()
    slot = config.prefix + (60 + 3) % other.ring
    for cache in (one, other):
        model.step(cache, 12)
    other.keys[:, :, :, slot], other.values[:, :, :, slot] = 7.0, -7.0
    seen = [model.step(cache, 12, offsets[8:], blind[8:]) for cache in (one, other)]
    assert torch.equal(*seen)
    assert not torch.allclose(seen[0], wanted[:, 8:])


@pytest.mark.parametrize(("options", "message"), [
    ({"delay": 0}, "delay: must be a whole number of at least 1, got 0"),
    ({"delay": 1.5}, "delay: must be a whole number of at least 1, got 1.5"),
    ({"frames": 3}, "frames: must be 1 or 2, got 3"),
])  # fmt: skip
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ReelmError, match=f"^{message}"):
        Diagonal(**options)
