"""Guidance in one row: what a clip is, that nothing else changes it, and that all else keeps two rows."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from reelm.core.condition import Guidance, Text
from reelm.core.errors import ReelmError
from reelm.generation.generator import VideoGenerator
from reelm.generation.memory_plan import plan_memory
from reelm.generation.session import SessionState
from reelm.kernels.sample import sample
from reelm.sampling.engine import Engine
from reelm.sampling.plan import ClipPlan, NoiseKey, SamplingConfig
from reelm.tests.engines import as_grids

RED, BLUE = "a red ball", "a blue ring"
SHORT = {"num_frames": 9, "seed": 5, "guidance_scale": 2.5, "temperature": 0.9, "top_k": 12}


def two_row_twin(generator: VideoGenerator) -> VideoGenerator:
    """The same weights in a model that has learnt no scale."""
    lm = copy.copy(generator.parts.lm)
    lm.guidance = None
    return VideoGenerator(dataclasses.replace(generator.parts, lm=lm))


def tokens(generator, prompt=RED, **options):
    return generator.generate(prompt, **{**SHORT, **options}).tokens


def slow_twin(generator, scale, frames):
    """Sampling without a cache and without guidance, from a model that is told the scale."""
    model = generator.parts.lm
    settings = SamplingConfig(guidance_scale=1.0, temperature=0.9, top_k=12)
    drawn_1S = torch.zeros(1, frames * model.layout.frame_size, dtype=torch.int64)
    for position in range(drawn_1S.shape[1]):
        logits = model.oracle(drawn_1S, [(Text(RED), Guidance(scale))])[:, position]
        numbers = (torch.tensor([number]) for number in (5, 0, position))
        drawn_1S[:, position] = sample(logits, *numbers, **settings.rules)
    return as_grids(model, drawn_1S)[0].numpy()


def test_a_clip_is_sampled_from_the_model_that_is_told_the_scale(guided_generator):
    expected = slow_twin(guided_generator, 2.5, 3)
    for decoder in ("sequential", "jacobi"):
        assert np.array_equal(tokens(guided_generator, decoder=decoder), expected)
    assert not np.array_equal(expected, slow_twin(guided_generator, 1.0, 3))


@pytest.mark.parametrize(
    "options", [{"guidance": "two-row"}, {"guidance_scale": 4.5}, {"negative_prompt": BLUE}, {"guidance_scale": 1.0}]
)
def test_what_is_not_learnt_or_not_wanted_is_guided_by_definition(guided_generator, options):
    assert np.array_equal(tokens(guided_generator, **options), tokens(two_row_twin(guided_generator), **options))
    if options.get("guidance_scale") != 1.0:
        assert not np.array_equal(tokens(guided_generator, **options), tokens(guided_generator))


@pytest.mark.parametrize("guidance", ["auto", "two-row"])
def test_clips_are_the_same_alone_and_in_a_batch_with_negative_prompts(guided_generator, guidance):
    options = {"guidance": guidance, "negative_prompt": ["", BLUE, ""], "num_frames": [9, 5, 13]}
    batch = guided_generator.generate([RED, RED, BLUE], **{**SHORT, "seed": [5, 6, 7], "batch_size": 2, **options})
    for index, prompt in enumerate((RED, RED, BLUE)):
        one = {name: value[index] for name, value in options.items() if name != "guidance"}
        alone = tokens(guided_generator, prompt, guidance=guidance, **{**one, "seed": 5 + index})
        assert np.array_equal(batch[index].tokens, alone)


def same_scores(ids, scores):
    return scores


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.05}, {"temperature": [(0, 1.0), (0.5, 0.7)]}, {"logits_processor": same_scores}],
)
def test_rules_hold_in_one_row_as_in_two_equal_ones(guided_generator, options):
    options = {**options, "num_frames": 5}
    alone = tokens(guided_generator, **options)
    beside = guided_generator.generate([RED, RED], **{**SHORT, **options, "negative_prompt": ["", BLUE]})
    assert np.array_equal(beside[0].tokens, alone)


@pytest.mark.parametrize("guidance", ["auto", "two-row"])
def test_a_clip_goes_on_in_the_way_it_was_drawn(guided_generator, guidance, tmp_path):
    prompts = [(0, RED), (1.0, BLUE)]
    whole = guided_generator.generate(prompts, **{**SHORT, "num_frames": 21, "guidance": guidance}, keep_state=True)
    part = guided_generator.generate(prompts, **{**SHORT, "guidance": guidance})
    assert part.settings["guidance"] == guidance
    assert part.state.cache["keys"].shape[1] == (1 if guidance == "auto" else 2)
    stored = SessionState.load(part.state.save(tmp_path / "part.safetensors"))
    for source in (part, stored, dataclasses.replace(stored, cache={}), part.save(tmp_path / "part.mkv")):
        longer = guided_generator.continue_clip(source, num_frames=12)
        assert np.array_equal(longer.tokens, whole.tokens)
        assert longer.settings == whole.settings


@pytest.mark.parametrize("change", [{"guidance_scale": 3.5}, {"guidance_scale": 1.0}, {"guidance": "two-row"}])
def test_a_clip_goes_on_under_another_scale_from_its_state_as_from_its_tokens(guided_generator, change):
    state = guided_generator.generate(RED, **SHORT).state
    found = [
        guided_generator.continue_clip(source, num_frames=4, **change).tokens
        for source in (state, dataclasses.replace(state, cache={}))
    ]
    assert np.array_equal(*found)
    assert not np.array_equal(found[0], guided_generator.continue_clip(state, num_frames=4).tokens)


def test_a_negative_prompt_needs_an_engine_with_a_row_for_it(guided_generator):
    lm, settings = guided_generator.parts.lm, SamplingConfig(guidance_scale=2.0)
    plan = ClipPlan(prompts=((0, RED),), negative_prompt=BLUE, key=NoiseKey(1), latent_frames=1)
    with pytest.raises(ReelmError, match="negative_prompt: must be none in an engine without `negatives`"):
        Engine(lm, settings).add(plan)
    assert Engine(lm, settings, negatives=True).guided
    unguided = Engine(lm, SamplingConfig(guidance_scale=1.0), negatives=True)
    unguided.add(plan)
    assert not unguided.guided


def test_memory_is_planned_for_the_rows_that_there_are(guided_generator):
    config, learnt = guided_generator.parts.config, SamplingConfig(guidance_scale=3.0)
    one, two, off = (
        plan_memory(config, batch=4, keep_state=True, block_size=8, sampling=dataclasses.replace(learnt, **change))
        for change in ({}, {"guidance": "two-row"}, {"guidance_scale": 1.0})
    )
    assert one == off
    assert two.cache == 2 * one.cache
    assert two.state == 2 * one.state
    kept = guided_generator.generate(RED, **SHORT).state.cache
    assert kept["keys"].nbytes + kept["values"].nbytes == plan_memory(config, sampling=learnt).state


def test_scores_are_those_without_guidance(guided_generator):
    clip = guided_generator.generate(RED, **SHORT)
    plain = two_row_twin(guided_generator).score(clip)
    assert np.array_equal(guided_generator.score(clip).nats_thw, plain.nats_thw)


def test_a_wrong_method_and_a_condition_of_the_engine_are_refused(guided_generator, debug_generator):
    with pytest.raises(ReelmError, match="guidance: must be one of auto, two-row, got 'one-row'"):
        guided_generator.generate(RED, guidance="one-row")
    for generator in (guided_generator, debug_generator):
        with pytest.raises(ReelmError, match="conditions: must be none: this model reads its prompt alone"):
            generator.generate(RED, conditions=[Guidance(2.0)])
    with pytest.raises(ReelmError, match="conditions: must be one text for this model"):
        debug_generator.parts.lm.condition(debug_generator.parts.lm.make_cache(1), [0], [(Text(RED), Guidance(2.0))])
