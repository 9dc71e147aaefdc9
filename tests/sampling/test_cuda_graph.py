"""An engine by captured passes, on a CPU: a traced graph has the rules of a CUDA graph. On a GPU: test_gpu.py."""

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from reelm.lm.cache import RingCache
from reelm.lm.lm_config import LMConfig
from reelm.lm.transformer import VideoTransformer
from reelm.sampling.cuda_graph import Captured
from reelm.sampling.decoders import Jacobi, Sequential
from reelm.sampling.plan import ClipPlan, NoiseKey, SamplingConfig
from reelm.tests.engines import Frames


class Traced:
    """The operations of some work on the very tensors that it saw, whatever the host would do now."""

    made = 0

    def __init__(self, work):
        Traced.made += 1
        self.graph = make_fx(work)()
        self.result = self.graph()

    def __call__(self):
        self.result.copy_(self.graph())
        return self.result


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """No looking at values, as where the kernels run, and a draw whose every operation is the same each time."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr("reelm.sampling.sampler.Sampler.can_capture", lambda self, logits: not self.processors)


def roll(parts, decoder, capture, settings):
    """Two clips, one of which leaves its place to another; then one alone."""
    plans = [
        ClipPlan(prompts=((0, "a red ball"), (1, "grass")), key=NoiseKey(1), latent_frames=2),
        ClipPlan(prompts=((0, "a blue ring"),), key=NoiseKey(2, sample=3)),
    ]
    clips = Frames(parts.lm, plans, settings, decoder=decoder, capture=capture)
    frames = [clips.next() for _ in range(2)]
    clips.replace(0, ClipPlan(prompts=((0, "a green box"),), key=NoiseKey(5)))
    frames += [clips.next() for _ in range(2)]
    clips.keep([1])
    frames += [clips.next() for _ in range(5)]
    return torch.cat([frame.flatten() for frame in frames]), clips.engine.stats.passes


@pytest.mark.parametrize(("decoder", "settings"), [
    (Jacobi(5, whole=True), SamplingConfig(guidance_scale=2.0, top_p=0.9)),
    pytest.param(Sequential(), SamplingConfig(guidance_scale=1.0, temperature=0.0), marks=pytest.mark.slow),
])  # fmt: skip
def test_captured_passes_draw_the_same_tokens(debug_generator, as_on_a_gpu, decoder, settings):
    parts = debug_generator.parts
    wanted, passes = roll(parts, decoder, None, settings)
    Traced.made = 0
    found, same_passes = roll(parts, decoder, Traced, settings)
    assert torch.equal(found, wanted) and same_passes == passes
    assert Traced.made == 4  # a step and a draw of two clips, and of one


def test_results_are_overwritten_and_known():
    values = torch.zeros(3)
    captured = Captured(Traced)
    first = captured("twice", lambda: values * 2)
    assert captured.owns(first) and not captured.owns(values)
    values += 1
    assert captured("twice", lambda: pytest.fail("captured again")) is first
    assert np.array_equal(first, [2, 2, 2])
    captured.forget()
    assert not captured.owns(first)
    assert captured("twice", lambda: values * 2) is not first


def test_a_step_reads_no_value_on_the_host():
    """On "meta" there are no values: whoever asks for one, or for a shape that hangs on one, is refused."""
    config = LMConfig(vocab_size=19, rows=3, columns=4, window=3, width=32, depth=1, heads=4, kv_heads=2, head_dim=16)
    model = VideoTransformer(config).to("meta")
    cache = RingCache(config, 2, torch.device("meta"), torch.float32)
    for count in (1, 5):
        assert model.step(cache, count).shape == (2, count, 19)
    with pytest.raises(RuntimeError):
        int(cache.positions_B.max())
