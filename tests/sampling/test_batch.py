"""True batches: clips of different prompts, lengths and seeds, more of them than rows."""

import functools

import numpy as np
import pytest

from reelm import VideoGenerator
from reelm.core.errors import ReelmError

RED, BLUE = "a red ball moves left", "a blue ring spins over grass"
PROMPTS, FRAMES, SEEDS = [RED, BLUE, RED, "grass", BLUE], [9, 1, 13, 5, 5], [1, 2, 3, 4, 5]


NEGATIVE = ["", RED, "", "", RED]


@pytest.fixture(scope="module")
def drawn_alone(debug_checkpoint):
    """Each of the clips by itself, drawn once."""
    generator = VideoGenerator.from_pretrained(debug_checkpoint, device="cpu")
    return functools.cache(
        lambda index: generator.generate(
            PROMPTS[index], seed=SEEDS[index], num_frames=FRAMES[index], negative_prompt=NEGATIVE[index]
        )
    )


@pytest.mark.parametrize("decoder", ["sequential", "jacobi"])
@pytest.mark.parametrize("batch_size", [1, 2, 4, None])
def test_each_clip_is_what_it_is_alone(debug_generator, drawn_alone, decoder, batch_size):
    options = {"decoder": decoder, "negative_prompt": NEGATIVE, "batch_size": batch_size}
    batch = debug_generator.generate(PROMPTS, seed=SEEDS, num_frames=FRAMES, **options)
    for index, video in enumerate(batch):
        alone = drawn_alone(index)
        assert np.array_equal(video.tokens, alone.tokens)
        assert video.frames.shape == alone.frames.shape
        assert np.array_equal(video.frames, alone.frames)
        assert (video.prompt, video.seed) == (PROMPTS[index], SEEDS[index])


def test_processors_see_the_tokens_of_their_own_clip(debug_generator):
    seen = []

    def watch(ids, scores):
        seen.append(tuple(ids.shape))
        return scores

    options = {"seed": SEEDS[:3], "num_frames": FRAMES[:3]}
    plain = debug_generator.generate(PROMPTS[:3], **options)
    watched = debug_generator.generate(PROMPTS[:3], **options, batch_size=2, logits_processor=watch)
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(plain, watched, strict=True))
    assert sum(rows for rows, _ in seen) == sum(video.tokens.size for video in plain)
    assert max(length for _, length in seen) == plain[2].tokens.size - 1


def test_fewer_passes_than_one_after_the_other(debug_generator):
    options = {"seed": SEEDS, "num_frames": FRAMES, "decoder": "sequential"}
    one, two = (debug_generator.generate(PROMPTS, **options, batch_size=n)[0].stats["passes"] for n in (1, 2))
    lengths, size = [1 + (frames - 1) // 4 for frames in FRAMES], debug_generator.parts.lm.layout.frame_size
    assert one == size * sum(lengths)
    # Two rows: 3, then 2 in one; 1, then 4 in the other, then what is left.
    assert size * max(lengths) <= two < one


@pytest.mark.parametrize(("options", "message"), [
    ({"num_frames": [1, 2]}, "seconds, num_frames: must be one, or one for each of the 5 prompts"),
    ({"seconds": [1, 1, 1, 1, 0]}, "seconds: must be a number above 0"),
    ({"batch_size": 0}, "batch_size: must be a whole number of at least 1"),
])  # fmt: skip
def test_bad_batches_are_refused(debug_generator, options, message):
    with pytest.raises(ReelmError, match=f"^{message}"):
        debug_generator.generate(PROMPTS, **options)
