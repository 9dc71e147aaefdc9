"""Every decoder against `sequential`, the oracle; and the contract that a decoder of one's own has to keep."""

import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.core.layout import FrameLayout, Segment
from reelm.sampling.decoders import DECODERS, Jacobi, Sequential, make_decoder
from reelm.tests.examples import examples


def of(size):
    """The layout of latent frames of so many tokens."""
    return FrameLayout((Segment(name="video", shape=(1, size), vocab_size=5),))


TEXTS = ("a red ball moves left", "a blue ring spins over grass", "grass")


@st.composite
def requests(draw):
    """Arguments of `generate`: prompts that may change, lengths, batches, every sampling setting."""
    count = draw(st.integers(1, 3))
    text = st.sampled_from(TEXTS)
    changing = st.builds(lambda a, b, at: [(0, a), (at, b)], text, text, st.sampled_from([0.2, 0.5, 1.0]))
    return {
        "prompt": [draw(st.one_of(text, changing)) for _ in range(count)],
        "num_frames": [draw(st.sampled_from([1, 5, 9, 13])) for _ in range(count)],
        "seed": [draw(st.integers(0, 2**63 - 1)) for _ in range(count)],
        "batch_size": draw(st.sampled_from([None, 1, 2])),
        "guidance_scale": draw(st.sampled_from([0.0, 1.0, 1.7, 4.0])),
        "temperature": draw(st.sampled_from([0.0, 0.4, 1.0, 1.5, [(0, 1.3), (0.6, 0.5)]])),
        "top_k": draw(st.sampled_from([None, 1, 4, 12])),
        "top_p": draw(st.sampled_from([1.0, 0.8, 0.3])),
        "min_p": draw(st.sampled_from([0.0, 0.1])),
    }


@pytest.fixture(scope="module", params=["debug_checkpoint", "coarse_checkpoint"], ids=["raster", "coarse"])
def generator(request):
    from reelm import VideoGenerator

    return VideoGenerator.from_pretrained(request.getfixturevalue(request.param), device="cpu")


@examples(6)
@given(request=requests(), block_size=st.sampled_from([1, 2, 5, 16, 23, 24, 37, 48]))
def test_jacobi_gives_the_tokens_of_sequential(generator, request, block_size):
    oracle = generator.generate(**request, decoder="sequential")
    found = generator.generate(**request, decoder="jacobi", block_size=block_size)
    for video, wanted in zip(found, oracle, strict=True):
        assert np.array_equal(video.tokens, wanted.tokens)
    stats = found[0].stats
    assert stats["tokens"] == sum(video.tokens.size for video in found)
    assert stats["passes"] <= oracle[0].stats["passes"]
    assert max(stats["accepted"]) <= block_size


def test_jacobi_past_the_window_in_few_passes(generator):
    # A model so cold that it repeats itself: drafts are right, and blocks are taken whole.
    options = {"prompt": TEXTS[0], "seed": 3, "num_frames": 33, "temperature": 0.0}
    oracle = generator.generate(**options, decoder="sequential")
    passes = []
    for block_size in (4, 16, 24, 48):
        video = generator.generate(**options, decoder="jacobi", block_size=block_size)
        assert np.array_equal(video.tokens, oracle.tokens)
        passes.append(video.stats["passes"])
    assert passes == sorted(passes, reverse=True)
    assert passes[-1] < oracle.stats["passes"] / 2


class Timid:
    """Takes at most two tokens, and none of a clip that has had its turn: a decoder of a user."""

    name, exactness = "timid", "lossless"

    def __init__(self):
        self.passes = 0

    def step(self, engine):
        drafts = engine.drafts(3)
        tokens = engine.draw(engine.logits(3))
        second = (tokens[:, 0] == drafts[:, 0]).tolist()
        limits = engine.limits
        counts = [min(1 + agreed, free) for agreed, free in zip(second, limits, strict=True)]
        if self.passes % 2 and len(counts) > 1:
            counts[0] = 0
        self.passes += 1
        engine.accept(tokens, counts)


def test_a_decoder_of_ones_own(generator):
    options = {"prompt": list(TEXTS[:2]), "seed": [1, 2], "num_frames": [5, 9]}
    oracle = generator.generate(**options, decoder="sequential")
    timid = Timid()
    found = generator.generate(**options, decoder=timid)
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(found, oracle, strict=True))
    assert found[0].stats["passes"] == timid.passes > generator.parts.lm.layout.frame_size
    assert found[0].stats["decoder"] == "timid"


class Greedy:
    """Keeps what was never drawn."""

    name, exactness = "greedy", "approximate"

    def step(self, engine):
        engine.accept(engine.draw(engine.logits(1)), [2])


def test_a_decoder_that_keeps_too_much_is_refused(generator):
    with pytest.raises(ReelmError, match=r"^decoder: must accept at most 1 tokens"):
        generator.generate(TEXTS[0], num_frames=1, decoder=Greedy())


def test_names_and_blocks():
    assert isinstance(make_decoder("sequential", layout=of(64)), Sequential)
    assert isinstance(make_decoder("auto", layout=of(64)), Jacobi)
    assert isinstance(make_decoder("auto", layout=of(64), sequential_only=True), Sequential)
    assert isinstance(make_decoder("auto", layout=of(64), rows=9), Sequential)
    assert isinstance(make_decoder("auto", 4, layout=of(64), rows=9), Jacobi)
    assert isinstance(make_decoder("auto", layout=of(64), rows=9, on_gpu=True), Jacobi)
    assert make_decoder("jacobi", layout=of(8)).block_size == 16
    assert [make_decoder("jacobi", layout=of(64), rows=rows).block_size for rows in (1, 2, 4, 100)] == [32, 16, 8, 4]
    coarse = FrameLayout((Segment(name="video", shape=(8, 8), vocab_size=9, order="coarse"),))
    chosen = [make_decoder("auto", layout=coarse, rows=rows) for rows in (1, 2, 3, 16, 17, 64, 65)]
    assert [getattr(each, "block_size", 1) for each in chosen] == [32, 32, 16, 16, 8, 8, 1]
    assert make_decoder("jacobi", layout=coarse, rows=100).block_size == 4
    assert make_decoder("jacobi", layout=of(500), rows=2, on_gpu=True).block_size == 128
    assert make_decoder("jacobi", 24, layout=of(64)).block_size == 24
    assert all(make_decoder(name, layout=of(4)) for name in DECODERS)
    assert [make_decoder("jacobi", layout=of(64), rows=2, measured=size).block_size for size in (48, 1)] == [48, 16]
    assert make_decoder("jacobi", 8, layout=of(64), measured=48).block_size == 8
    assert make_decoder("auto", layout=of(4), measured=48).block_size == 8
    assert isinstance(make_decoder("auto", layout=of(64), measured=1), Sequential)
    assert isinstance(make_decoder("auto", layout=of(64), rows=16, measured=8), Jacobi)


@pytest.mark.parametrize(("arguments", "message"), [
    (("fast",), "decoder: must be one of auto, sequential, jacobi, diagonal, got 'fast'"),
    ((object(),), "decoder: must be a name or have a method step"),
    (("jacobi", 0), "block_size: must be a whole number from 1 to 128, got 0"),
    (("auto", 129), "block_size: must be a whole number from 1 to 128, got 129"),
    (("jacobi", 2.5), "block_size: must be a whole number from 1 to 128, got 2.5"),
    (("sequential", 4), "block_size: must not be given for decoder 'sequential'"),
    ((Jacobi(129),), "decoder: must have a whole block_size from 1 to 128, got 129"),
    ((Jacobi(None),), "decoder: must have a whole block_size from 1 to 128, got None"),
    ((Jacobi,), "decoder: must be a name or have a method step"),
    ((types.SimpleNamespace(step=print),), "decoder: must have a name"),
    ((types.SimpleNamespace(step=print, name="x", exactness="good"),), "decoder: must have an exactness of"),
    ((Jacobi(4), 4), "block_size: must not be given with a decoder of one's own"),
])  # fmt: skip
def test_bad_decoders_are_refused(arguments, message):
    with pytest.raises(ReelmError, match=f"^{message}"):
        make_decoder(*arguments, layout=of(64))


@pytest.mark.parametrize("decoder", ["jacobi", Jacobi(4)])
def test_processors_need_sequential(generator, decoder):
    with pytest.raises(ReelmError, match=r"^decoder: must be 'sequential' with logits_processor"):
        generator.generate(TEXTS[0], decoder=decoder, logits_processor=lambda ids, scores: scores)
