"""Calls that a callback stops: what was drawn is a clip, and it goes on as if it had never stopped."""

import numpy as np
import pytest
import torch

from reelm.generation.session import SessionState

RED, BLUE = "a red ball moves left", "a blue ring spins over grass"
OPTIONS = {"seed": 5, "num_frames": 21, "decoder": "sequential"}


def after(passes, answer=True):
    """A callback that asks for an end after so many passes, and must not be asked again."""
    ended = []

    def callback(done, _):
        assert not ended
        if done >= passes:
            ended.append(done)
            if isinstance(answer, type):
                raise answer
            return answer
        return None

    return callback


@pytest.fixture(scope="module")
def whole(debug_checkpoint):
    """A clip that was not stopped."""
    from reelm import VideoGenerator

    return VideoGenerator.from_pretrained(debug_checkpoint, device="cpu").generate(RED, **OPTIONS)


@pytest.mark.parametrize(
    ("passes", "answer", "latent_frames"),
    [(1, True, 1), (24, True, 1), (53, StopIteration, 2), (72, np.True_, 3), (90, torch.tensor(True), 3)],
)
def test_a_stopped_clip_goes_on_to_the_same_clip(debug_generator, whole, passes, answer, latent_frames, tmp_path):
    part = debug_generator.generate(RED, callback_on_step_end=after(passes, answer), **OPTIONS)
    assert len(part.tokens) == latent_frames and len(part.frames) == 1 + 4 * (latent_frames - 1)
    assert np.array_equal(part.tokens, whole.tokens[:latent_frames])
    assert np.array_equal(part.frames, whole.frames[: len(part.frames)])
    rest = {"num_frames": len(whole.frames) - len(part.frames)}
    for again in (part, part.state, part.state.save(tmp_path / "a.safetensors"), part.save(tmp_path / "a.mkv")):
        assert np.array_equal(debug_generator.continue_clip(again, **rest).tokens, whole.tokens)


@pytest.mark.parametrize("answer", [None, False, 1, "yes", {"latents": 3}, np.False_])
def test_anything_but_true_goes_on(debug_generator, whole, answer):
    video = debug_generator.generate(RED, callback_on_step_end=lambda *_: answer, **OPTIONS)
    assert np.array_equal(video.tokens, whole.tokens)


def test_a_stopped_batch_has_every_clip(debug_generator):
    prompts, options = [RED, BLUE, RED], {"seed": [5, 6, 7], "num_frames": [21, 5, 9]}
    wholes = debug_generator.generate(prompts, **options)
    parts = debug_generator.generate(prompts, batch_size=2, callback_on_step_end=after(4), **options)
    for part, complete in zip(parts, wholes, strict=True):
        assert len(part.tokens) < len(complete.tokens)
        assert np.array_equal(part.tokens, complete.tokens[: len(part.tokens)])
        rest = {"num_frames": len(complete.frames) - len(part.frames)}
        assert np.array_equal(debug_generator.continue_clip(part.state, **rest).tokens, complete.tokens)


@pytest.mark.parametrize("passes", [1, 30])
def test_a_stopped_continuation_is_as_long_as_its_tokens(debug_generator, whole, passes):
    start = debug_generator.generate(RED, **{**OPTIONS, "num_frames": 9})
    callback = after(passes)
    part = debug_generator.continue_clip(start, num_frames=12, decoder="sequential", callback_on_step_end=callback)
    assert np.array_equal(part.tokens, whole.tokens[: 3 + passes // 24])
    assert np.array_equal(part.frames, whole.frames[: len(part.frames)])


@pytest.mark.parametrize("overlap", [True, False])
def test_a_stopped_stream_ends(debug_generator, whole, monkeypatch, overlap):
    monkeypatch.setattr("reelm.generation.stream.can_overlap", lambda _: overlap)
    frames = list(debug_generator.stream(RED, callback_on_step_end=after(50, StopIteration), **OPTIONS))
    assert np.array_equal(np.concatenate(frames), whole.frames[:5])


@pytest.mark.parametrize("prompts", [RED, [RED, BLUE]])
def test_an_exception_leaves_the_sessions_of_what_was_drawn(debug_generator, prompts):
    """Where a clip has no latent frame yet its session has no tokens, so that every clip has its own."""
    seen, options = [], {**OPTIONS, "batch_size": 1}
    with pytest.raises(KeyboardInterrupt):
        debug_generator.generate(
            prompts, callback_on_tokens=seen.append, callback_on_step_end=after(70, KeyboardInterrupt), **options
        )
    ((state, *others),) = seen
    assert isinstance(state, SessionState) and len(state.tokens_thw) == 2 and state.seed == 5
    assert [len(other.tokens_thw) for other in others] == [0] * (len(prompts) - 1 if isinstance(prompts, list) else 0)
    complete = debug_generator.generate(RED, **OPTIONS)
    assert np.array_equal(debug_generator.continue_clip(state, num_frames=16).tokens, complete.tokens)


def test_the_clips_of_a_batch_have_sessions(debug_generator, tmp_path):
    first, _ = debug_generator.generate([RED, BLUE], seed=5, num_frames=5)
    saved = first.state.save(tmp_path / "first.safetensors")
    alone = debug_generator.generate(RED, seed=5, num_frames=9)
    assert np.array_equal(debug_generator.continue_clip(saved, num_frames=4).tokens, alone.tokens)
