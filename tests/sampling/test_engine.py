import dataclasses

import pytest
import torch

from reelm.core.condition import Text
from reelm.kernels.sample import sample
from reelm.sampling.plan import ClipPlan, NoiseKey, SamplingConfig
from reelm.tests.engines import Frames, as_grids


def begin(parts, prompts, keys, settings, **options):
    plans = [ClipPlan(prompts=((0, text),), key=key) for text, key in zip(prompts, keys, strict=True)]
    return Frames(parts.lm, plans, settings, **options)


def slow_twin(parts, prompt, key, settings, frames):
    """Sampling without a cache: every token from a masked pass over all that came before."""
    model = parts.lm
    conditions = [(Text(prompt),), (Text(""),)]
    tokens = torch.zeros(1, frames * parts.config.lm.frame_size, dtype=torch.int64)
    for position in range(tokens.shape[1]):
        logits = model.oracle(tokens.expand(2, -1), conditions)[:, position]
        numbers = (torch.tensor([number]) for number in (key.seed, key.sample, position))
        tokens[:, position] = sample(logits, *numbers, **settings.rules)
    return as_grids(model, tokens)[0]


def test_a_clip_past_its_window_equals_sampling_without_a_cache(ordered_generator):
    parts = ordered_generator.parts
    settings, key = SamplingConfig(guidance_scale=2.5, top_k=12, top_p=0.95, temperature=0.9), NoiseKey(11)
    clips = begin(parts, ["a red ball"], [key], settings)
    frames = parts.config.lm.window + 2
    rolled = torch.cat([clips.next() for _ in range(frames)])
    assert torch.equal(rolled, slow_twin(parts, "a red ball", key, settings, frames))
    assert clips.engine.stats.tokens == clips.engine.stats.passes == rolled.numel()


@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
def test_processors_run_in_order_on_what_came_before_and_on_guided_logits(debug_generator, guidance_scale):
    parts, size = debug_generator.parts, debug_generator.parts.config.lm.frame_size
    settings, keys, calls = SamplingConfig(guidance_scale=guidance_scale), [NoiseKey(1), NoiseKey(2)], []

    def watch(input_ids, scores):
        calls.append((input_ids, scores.clone()))
        return scores.double()

    def ban_last(input_ids, scores):
        assert torch.equal(scores, calls[-1][1].double())
        return scores.scatter(1, input_ids[:, -1:], -torch.inf)

    prompts = ["a red ball", "a blue ring"]
    plain = begin(parts, prompts, keys, settings).next().flatten(1)
    watched = begin(parts, prompts, keys, settings, processors=[watch])
    assert torch.equal(watched.next().flatten(1), plain)
    assert [ids.shape for ids, _ in calls] == [(2, place) for place in range(size)]
    assert torch.equal(calls[-1][0], plain[:, :-1])

    # The scores are the guided ones: their best is the best of a clip at temperature 0 along the same tokens.
    greedy, calls[:] = dataclasses.replace(settings, temperature=0.0), []
    best = begin(parts, prompts, keys, greedy, processors=[watch]).next().flatten(1)
    assert torch.equal(torch.stack([scores.argmax(-1) for _, scores in calls], 1), best)
    assert torch.equal(begin(parts, prompts, keys, greedy).next().flatten(1), best)

    calls.clear()
    changing = begin(parts, prompts, keys, settings, processors=[watch, ban_last])
    frame = torch.stack([changing.next().flatten(1) for _ in range(2)], 1).flatten(1)
    assert (frame[:, 1:] != frame[:, :-1]).all()
    assert (plain[:, 1:] == plain[:, :-1]).any()


def test_memory_is_flat_however_long_it_rolls(debug_generator):
    parts = debug_generator.parts
    clips = begin(parts, ["a red ball"], [NoiseKey(1)], SamplingConfig())
    before = (clips.engine.cache.keys.data_ptr(), clips.engine.cache.nbytes, clips.engine.cache.tokens_BQ.shape)
    for _ in range(20):
        clips.next()
    assert (clips.engine.cache.keys.data_ptr(), clips.engine.cache.nbytes, clips.engine.cache.tokens_BQ.shape) == before
    assert not any(len(row.history) for row in clips.engine._rows)
