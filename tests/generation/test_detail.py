"""Detail that a tokenizer loses: kept where the picture stays as it was, and nowhere else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelm.generation.detail import DIFFERENCE_SCALE, NEIGHBOURHOOD, keep_detail


def plainly(given_NHWC, decoded_NHWC, frames_THW3):
    """The formula of the docstring, pixel by pixel."""
    half, (height, width) = NEIGHBOURHOOD // 2, frames_THW3.shape[1:3]
    shown = np.zeros_like(frames_THW3)
    for t, frame in enumerate(frames_THW3.astype(float)):
        apart = np.square(decoded_NHWC.astype(float) - frame).mean(-1)
        for y in range(height):
            for x in range(width):
                rows = np.clip(np.arange(y - half, y + half + 1), 0, height - 1)
                columns = np.clip(np.arange(x - half, x + half + 1), 0, width - 1)
                weights = np.exp(-apart[:, rows[:, None], columns].mean((1, 2)) / DIFFERENCE_SCALE**2)
                lost = (given_NHWC.astype(float) - decoded_NHWC)[:, y, x]
                value = frame[y, x] + (weights[:, None] * lost).sum(0) / max(1, weights.sum())
                shown[t, y, x] = np.clip(np.round(value), 0, 255)
    return shown


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 4), noise=st.sampled_from([2, 12, 60]))
def test_it_is_the_formula(seed, count, noise):
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (1, 6, 11, 3))
    given, decoded, frames = (
        np.clip(base + rng.integers(-noise, noise + 1, (n, 6, 11, 3)), 0, 255).astype(np.uint8)
        for n in (count, count, 2)
    )
    shown, wanted = keep_detail(given, decoded, frames), plainly(given, decoded, frames)
    assert np.abs(shown.astype(int) - wanted).max() <= 1  # float32 rounds some halves the other way


def test_what_stands_still_is_as_given_and_what_changes_as_decoded():
    rng = np.random.default_rng(0)
    given = rng.integers(40, 200, (1, 32, 64, 3), np.uint8)
    decoded = np.full((1, 32, 64, 3), 120, np.uint8)
    frames = np.repeat(decoded, 3, 0)
    frames[2, :, 32:] = 220
    shown = keep_detail(given, decoded, frames)
    assert np.array_equal(shown[0], given[0])
    assert np.array_equal(shown[1], given[0])
    far = NEIGHBOURHOOD
    assert np.array_equal(shown[2, :, : 32 - far], given[0, :, : 32 - far])
    assert np.array_equal(shown[2, :, 32 + far :], frames[2, :, 32 + far :])


def test_the_noise_of_single_frames_is_not_kept():
    rng = np.random.default_rng(0)
    clean = np.full((4, 16, 16, 3), 100.0)
    given = np.round(clean + 10 + rng.normal(0, 4, clean.shape)).astype(np.uint8)
    shown = keep_detail(given, clean.astype(np.uint8), clean[:1].astype(np.uint8))
    assert shown.std() < 0.7 * given[3].std()
    assert shown.mean() == pytest.approx(110, abs=0.5)


def test_a_continuation_keeps_it_and_the_tokens_do_not_change(debug_generator, tmp_path):
    g = debug_generator
    clip = np.random.default_rng(0).integers(100, 140, (9, 32, 48, 3), dtype=np.uint8)
    kept, plain = (g.continue_clip(clip, num_frames=8, seed=1, detail=detail) for detail in (True, False))
    assert np.array_equal(kept.tokens, plain.tokens)
    assert np.array_equal(kept.frames[:9], clip)
    (decoded,) = (g.decode(plain.state).frames,)
    assert np.abs(plain.frames[9:].astype(int) - decoded[9:]).max() <= 1
    wanted = keep_detail(clip[5:], decoded[5:9], decoded[9:])
    assert np.abs(kept.frames[9:].astype(int) - wanted).max() <= 2
    assert (kept.frames[9:] != plain.frames[9:]).any()
    # What continues it keeps the detail on, and a clip that was generated has none.
    path = kept.save(tmp_path / "kept.mkv")
    for source in (kept, path):
        again, without = (g.continue_clip(source, num_frames=4, detail=detail) for detail in (True, False))
        assert np.array_equal(again.tokens, without.tokens)
        assert (again.frames[17:] != without.frames[17:]).any()
    made = g.generate("a red ball moves left", num_frames=9, seed=1)
    noisy = made.frames.astype(int) + np.random.default_rng(1).integers(-3, 4, made.frames.shape)
    made.frames = np.clip(noisy, 0, 255).astype(np.uint8)  # as a file would change them
    longer, without = (g.continue_clip(made, num_frames=4, detail=detail) for detail in (True, False))
    assert np.array_equal(longer.frames, without.frames)
