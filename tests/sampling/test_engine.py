import dataclasses

import pytest
import torch

from reelm.kernels.sample import sample
from reelm.sampling.engine import Rollout
from reelm.sampling.noise_keys import NoiseKey
from reelm.sampling.plan import ClipPlan
from reelm.sampling.rules import SamplingConfig


def begin(parts, prompts, keys, settings, **options):
    plans = [ClipPlan(prompts=((0, text),), key=key) for text, key in zip(prompts, keys, strict=True)]
    return Rollout(parts.lm, parts.text, plans, settings, **options)


def slow_twin(parts, prompt, key, settings, frames):
    """Sampling without a cache: every token from a masked pass over all that came before."""
    model = parts.lm
    text, lengths = parts.text.prefix([prompt, ""], parts.config.lm.prefix)
    tokens = torch.zeros(1, frames * parts.config.lm.frame_size, dtype=torch.int64)
    for position in range(tokens.shape[1]):
        with torch.no_grad():
            logits = model.logits(tokens.expand(2, -1), text, lengths)[:, position]
        numbers = (torch.tensor([number]) for number in (key.seed, key.sample, position))
        tokens[:, position] = sample(logits, *numbers, **dataclasses.asdict(settings))
    return model.as_grid(tokens)[0]


def test_a_rollout_past_its_window_equals_sampling_without_a_cache(ordered_generator):
    parts = ordered_generator.parts
    settings, key = SamplingConfig(guidance_scale=2.5, top_k=12, top_p=0.95, temperature=0.9), NoiseKey(11)
    rollout = begin(parts, ["a red ball"], [key], settings)
    frames = parts.config.lm.window + 2
    rolled = torch.cat([rollout.next_frame() for _ in range(frames)])
    assert torch.equal(rolled, slow_twin(parts, "a red ball", key, settings, frames))
    assert rollout.stats.tokens == rollout.stats.passes == rolled.numel()


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
    plain = begin(parts, prompts, keys, settings).next_frame().flatten(1)
    watched = begin(parts, prompts, keys, settings, processors=[watch])
    assert torch.equal(watched.next_frame().flatten(1), plain)
    assert [ids.shape for ids, _ in calls] == [(2, place) for place in range(size)]
    assert torch.equal(calls[-1][0], plain[:, :-1])

    # The scores are the guided ones: their best is the best of a rollout at temperature 0 along the same tokens.
    greedy, calls[:] = dataclasses.replace(settings, temperature=0.0), []
    best = begin(parts, prompts, keys, greedy, processors=[watch]).next_frame().flatten(1)
    assert torch.equal(torch.stack([scores.argmax(-1) for _, scores in calls], 1), best)
    assert torch.equal(begin(parts, prompts, keys, greedy).next_frame().flatten(1), best)

    calls.clear()
    changing = begin(parts, prompts, keys, settings, processors=[watch, ban_last])
    frame = torch.stack([changing.next_frame().flatten(1) for _ in range(2)], 1).flatten(1)
    assert (frame[:, 1:] != frame[:, :-1]).all()
    assert (plain[:, 1:] == plain[:, :-1]).any()


def test_memory_is_flat_however_long_it_rolls(debug_generator):
    parts = debug_generator.parts
    rollout = begin(parts, ["a red ball"], [NoiseKey(1)], SamplingConfig())
    before = (rollout.cache.keys.data_ptr(), rollout.cache.nbytes, rollout.cache.tokens_BR.shape)
    for _ in range(20):
        rollout.next_frame()
    assert (rollout.cache.keys.data_ptr(), rollout.cache.nbytes, rollout.cache.tokens_BR.shape) == before
    assert not rollout._seen
