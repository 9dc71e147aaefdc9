"""The decode engine where it has kernels and graphs: the bundled model on a GPU."""

import numpy as np
import pytest
import torch

from reelm import VideoGenerator
from reelm.sampling.decoders import Jacobi, Sequential
from reelm.sampling.plan import ClipPlan, NoiseKey
from reelm.tests.engines import Frames

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


class Uncaptured:
    """The work itself, every time."""

    def __init__(self, work):
        self.work = work

    def __call__(self):
        return self.work()


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def generator(request):
    return VideoGenerator.from_pretrained("world", device="cuda", dtype=request.param)


@pytest.mark.parametrize("decoder", [Sequential(), Jacobi(16, whole=True)])
def test_graphs_draw_what_their_kernels_draw(generator, decoder):
    parts, found = generator.parts, []
    for capture in (None, Uncaptured):
        plans = [ClipPlan(prompts=((0, text),), key=NoiseKey(seed)) for seed, text in enumerate(("a red ball", ""))]
        clips = Frames(parts.lm, plans, parts.config.sampling, decoder=decoder, capture=capture)
        frames = [clips.next() for _ in range(7)]  # past the window
        clips.replace(0, ClipPlan(prompts=((0, "a blue ring"),), key=NoiseKey(9)))
        frames += [clips.next() for _ in range(2)]
        clips.keep([1])
        frames += [clips.next() for _ in range(2)]
        found.append(torch.cat([frame.flatten() for frame in frames]))
    assert torch.equal(*found)


def test_streamed_saved_and_continued(generator, tmp_path):
    prompt = "a red ball rolls to the right over grass"
    whole = generator.generate(prompt, seconds=3, seed=1)
    streamed = np.concatenate(list(generator.stream(prompt, seconds=3, seed=1)))
    assert np.abs(streamed.astype(int) - whole.frames).max() <= 1  # the tokenizer's products, alone and together
    part = generator.generate(prompt, seconds=1, seed=1)
    part.state.save(tmp_path / "part.safetensors")
    longer = generator.continue_clip(tmp_path / "part.safetensors", seconds=2)
    assert np.array_equal(longer.tokens, whole.tokens[: len(longer.tokens)])


def test_what_it_draws_is_what_a_cpu_draws(generator):
    prompt = "a red ball rolls to the right over grass"
    here = generator.generate(prompt, num_frames=1, seed=1, decoder="sequential").tokens
    there = VideoGenerator.from_pretrained("world", device="cpu").generate(prompt, num_frames=1, seed=1).tokens
    # Logits differ by roundings, and after the first other token all may be others.
    assert (here == there).mean() > (0.95 if generator.parts.lm.numerics.dtype == torch.float32 else 0.1)


def test_int8_weights_say_nearly_the_same(generator):
    prompt, dtype = "a red ball rolls to the right over grass", str(generator.parts.lm.numerics.dtype)
    small = VideoGenerator.from_pretrained("world", device="cuda", dtype=dtype.removeprefix("torch."), weights="int8")
    clip = generator.generate(prompt, seconds=1, seed=1)
    full, rounded = (model.score(clip, prompt).nats_per_token for model in (generator, small))
    assert abs(full - rounded) < 0.05 * full
    found = [small.generate(prompt, seconds=1, seed=1, decoder=name).tokens for name in ("sequential", "jacobi")]
    assert (found[0] == found[1]).mean() > (0.95 if dtype == "torch.float32" else 0.1)
