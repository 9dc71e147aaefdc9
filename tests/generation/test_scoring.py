"""Scores: those of the one masked pass over the whole clip, token by token."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from reelm.core.condition import Text
from reelm.core.errors import ReelmError
from reelm.generation.pixels import encode_frames
from reelm.generation.scoring import score_clip
from reelm.generation.session import SessionState
from reelm.generation.video import Video
from reelm.tests.engines import as_grids, written

RED, BLUE = "a red ball moves left", "a blue ring spins over grass"
HEIGHT, WIDTH = 32, 48  # of the debug model


@pytest.fixture(scope="module", params=["debug_checkpoint", "coarse_checkpoint"], ids=["raster", "coarse"])
def generator(request):
    from reelm import VideoGenerator

    return VideoGenerator.from_pretrained(request.getfixturevalue(request.param), device="cpu")


def session(parts, latent_frames, prompt=""):
    """Random tokens, most of which are those of one latent frame earlier."""
    rng, lm = np.random.default_rng(latent_frames), parts.config.lm
    shape = (latent_frames, lm.rows, lm.columns)
    tokens = torch.from_numpy(np.where(rng.random(shape) < 0.2, rng.integers(0, lm.vocab_size, shape), 3))
    return SessionState(tokens, prompt=prompt, settings={"tokenizer": parts.tokenizer_id})


def masked_pass(parts, tokens_thw, prompt):
    tokens_1S = written(parts.lm, tokens_thw[None])
    logits = parts.lm.oracle(tokens_1S, [(Text(prompt),)])[0]
    return -as_grids(parts.lm, logits.log_softmax(-1).gather(1, tokens_1S[0, :, None])[None, :, 0])[0].numpy()


@pytest.mark.parametrize("prompt", ["", RED])
def test_a_score_equals_one_masked_pass_far_beyond_the_window(generator, prompt):
    parts = generator.parts
    clip = session(parts, 3 * parts.config.lm.window + 1, prompt)
    wanted = masked_pass(parts, clip.tokens_thw, prompt)
    assert wanted.std() > 0.5
    score = score_clip(parts, clip)
    assert (score.nats_thw.dtype, score.prompts) == (np.float32, ((0, prompt),))
    assert np.abs(score.nats_thw - wanted).max() < 1e-4


def test_figures_are_those_of_the_tokens(generator):
    clip = session(generator.parts, 4, RED)
    score = score_clip(generator.parts, clip)
    nats = score.nats_thw.astype(np.float64)
    assert score.nats == pytest.approx(nats.sum())
    assert score.nats_per_token == pytest.approx(nats.mean())
    assert score.nats_per_frame.shape == (4,)
    assert np.allclose(score.nats_per_frame, [frame.mean() for frame in nats])
    assert score.perplexity == pytest.approx(math.exp(nats.mean()))
    assert score.dimensions == 13 * HEIGHT * WIDTH * 3
    assert score.bits_per_dimension == pytest.approx(nats.sum() / math.log(2) / (13 * HEIGHT * WIDTH * 3))
    assert f"{score.nats_per_token:.4g} nats per token" in repr(score)
    assert "4 latent frames of 6x4 tokens" in repr(score)
    assert RED in repr(score)


def test_what_comes_later_changes_nothing_before(generator):
    clip = session(generator.parts, 9, RED)
    whole = score_clip(generator.parts, clip)
    start = score_clip(generator.parts, dataclasses.replace(clip, tokens_thw=clip.tokens_thw[:4]))
    assert np.array_equal(start.nats_thw, whole.nats_thw[:4])


def test_a_prompt_changes_the_score_from_where_it_holds(generator):
    clip = session(generator.parts, 8, RED)
    red = score_clip(generator.parts, clip)
    assert np.array_equal(score_clip(generator.parts, clip, RED).nats_thw, red.nats_thw)
    assert np.array_equal(score_clip(generator.parts, clip, [RED]).nats_thw, red.nats_thw)
    for prompt in (BLUE, ""):
        other = score_clip(generator.parts, clip, prompt)
        assert other.prompts == ((0, prompt),)
        assert (np.abs(other.nats_per_frame - red.nats_per_frame) > 1e-4).all()
    both = score_clip(generator.parts, clip, [(0, RED), (1.0, BLUE)])
    assert both.prompts == ((0, RED), (3, BLUE))  # frame 8 is in latent frame 2, which began before
    assert np.array_equal(both.nats_thw[:3], red.nats_thw[:3])
    assert (np.abs(both.nats_per_frame - red.nats_per_frame)[3:] > 1e-4).all()


def test_a_clip_of_the_model_is_scored_by_its_own_tokens_under_its_own_prompts(generator, tmp_path):
    parts = generator.parts
    video = generator.generate([[(0, RED), (1.0, BLUE)]], seed=3, num_frames=21)[0]
    score = score_clip(parts, video)
    assert score.prompts == ((0, RED), (3, BLUE))
    assert np.array_equal(score.nats_thw, score_clip(parts, video, [(0, RED), (1.0, BLUE)]).nats_thw)
    wanted = masked_pass(parts, torch.from_numpy(video.tokens[:3]), RED)
    assert np.abs(score.nats_thw[:3] - wanted).max() < 1e-4
    for saved in (video.save(tmp_path / "a.gif"), video.state.save(tmp_path / "a.safetensors")):
        assert np.array_equal(score_clip(parts, saved).nats_thw, score.nats_thw)


def test_frames_are_encoded_and_fitted(generator, capsys):
    parts = generator.parts
    frames = np.random.default_rng(0).integers(0, 256, (11, HEIGHT, WIDTH, 3), np.uint8)
    tokens = encode_frames(parts.tokenizer, torch.from_numpy(frames))
    assert len(tokens) == 3  # two frames are left out
    score = score_clip(parts, frames, BLUE)
    assert np.abs(score.nats_thw - masked_pass(parts, tokens, BLUE)).max() < 1e-4
    assert score.dimensions == 9 * HEIGHT * WIDTH * 3
    assert np.array_equal(score_clip(parts, Video(frames, 8.0), BLUE).nats_thw, score.nats_thw)
    assert capsys.readouterr().err == ""

    wide = np.random.default_rng(1).integers(0, 256, (HEIGHT, 2 * WIDTH, 3), np.uint8)
    cropped, padded = score_clip(parts, wide), score_clip(parts, wide, fit="pad")
    assert cropped.nats_thw.shape == padded.nats_thw.shape == (1, 4, 6)
    assert not np.array_equal(cropped.nats_thw, padded.nats_thw)
    assert "96x32 -> 48x32, black bars" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        (3, "prompt: must be a string"),
        ("  ", "prompt: must not be empty"),
        ([RED, BLUE], "prompt: must be a single one to score"),
        ([(1.0, RED)], "prompt: must begin at second 0"),
    ],
)
def test_bad_prompts_are_refused_before_the_clip_is_read(generator, prompt, wanted):
    with pytest.raises(ReelmError, match=f"^{wanted}"):
        score_clip(generator.parts, "there is no such file", prompt)


def test_bad_clips_are_refused(generator):
    with pytest.raises(ReelmError, match=r"^fit: must be one of"):
        score_clip(generator.parts, np.zeros((1, HEIGHT, WIDTH, 3), np.uint8), fit="squeeze")
    with pytest.raises(ReelmError, match=r"^clip: must be a numpy or torch array"):
        score_clip(generator.parts, None)
    other = dataclasses.replace(session(generator.parts, 1), settings={"tokenizer": "another"})
    with pytest.raises(ReelmError, match=r"^clip: must be of this model"):
        score_clip(generator.parts, other)
