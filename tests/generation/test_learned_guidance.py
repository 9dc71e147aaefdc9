"""Guidance in one row: what a clip is, that nothing else changes it, and that all else keeps two rows."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from reelm.bench.sampling import benchmark
from reelm.core.checkpoint import load_tensors
from reelm.core.condition import Text
from reelm.core.errors import ReelmError
from reelm.generation.generator import VideoGenerator
from reelm.generation.memory_plan import plan_memory
from reelm.generation.session import SessionState
from reelm.kernels.sample import sample
from reelm.sampling.plan import SamplingConfig
from reelm.tests.engines import as_grids

RED, BLUE = "a red ball", "a blue ring"
SHORT = {"num_frames": 9, "seed": 5, "guidance_scale": 3.0, "temperature": 0.9, "top_k": 12}


def tokens(generator, prompt=RED, **options):
    return generator.generate(prompt, **{**SHORT, **options}).tokens


def two_row_twin(generator: VideoGenerator) -> VideoGenerator:
    """The same plain weights in a model that has learnt no scale."""
    lm = copy.copy(generator.parts.lm)
    lm.guidance, lm._modules = None, {**lm._modules, "guided": None}
    return VideoGenerator(dataclasses.replace(generator.parts, lm=lm))


def slow_twin(model, frames):
    """Sampling without a cache and without guidance."""
    settings = SamplingConfig(guidance_scale=1.0, temperature=0.9, top_k=12)
    drawn_1S = torch.zeros(1, frames * model.layout.frame_size, dtype=torch.int64)
    for position in range(drawn_1S.shape[1]):
        logits = model.oracle(drawn_1S, [(Text(RED),)])[:, position]
        numbers = (torch.tensor([number]) for number in (5, 0, position))
        drawn_1S[:, position] = sample(logits, *numbers, **settings.rules)
    return as_grids(model, drawn_1S)[0].numpy()


def test_a_clip_is_sampled_from_the_guided_model(guided_generator):
    model = guided_generator.parts.lm
    expected = slow_twin(model.guided, 3)
    for decoder in ("sequential", "jacobi"):
        assert np.array_equal(tokens(guided_generator, decoder=decoder), expected)
    assert not np.array_equal(expected, slow_twin(model, 3))


@pytest.mark.parametrize(
    "options", [{"guidance": "two-row"}, {"guidance_scale": 4.5}, {"negative_prompt": BLUE}, {"guidance_scale": 1.0}]
)
def test_what_is_not_learnt_or_not_wanted_is_guided_by_definition(guided_generator, options):
    assert np.array_equal(tokens(guided_generator, **options), tokens(two_row_twin(guided_generator), **options))
    if options.get("guidance_scale") != 1.0:
        assert not np.array_equal(tokens(guided_generator, **options), tokens(guided_generator))


@pytest.mark.parametrize("negative", ["", BLUE])
def test_clips_are_the_same_alone_and_in_a_batch(guided_generator, negative):
    lengths, options = [9, 5, 13], {"negative_prompt": negative}
    batch = guided_generator.generate(
        [RED, RED, BLUE], **{**SHORT, "seed": [5, 6, 7], "num_frames": lengths, "batch_size": 2, **options}
    )
    for index, prompt in enumerate((RED, RED, BLUE)):
        alone = tokens(guided_generator, prompt, **options, num_frames=lengths[index], seed=5 + index)
        assert np.array_equal(batch[index].tokens, alone)


def test_a_negative_prompt_for_some_clips_needs_two_rows_for_all(guided_generator):
    options = {**SHORT, "num_frames": 1, "negative_prompt": ["", BLUE]}
    with pytest.raises(ReelmError, match="negative_prompt: must be given for all prompts of a call or for none"):
        guided_generator.generate([RED, RED], **options)
    first, second = guided_generator.generate([RED, RED], **options, guidance="two-row")
    assert np.array_equal(first.tokens, tokens(guided_generator, num_frames=1, guidance="two-row"))
    assert np.array_equal(second.tokens, tokens(guided_generator, num_frames=1, negative_prompt=BLUE))


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


@pytest.mark.parametrize("after", [BLUE, ""])
def test_a_clip_goes_on_with_another_negative_prompt_from_its_state_as_from_its_tokens(guided_generator, after):
    state = guided_generator.generate(RED, **SHORT, negative_prompt="" if after else BLUE).state
    found = [
        guided_generator.continue_clip(source, num_frames=4, negative_prompt=after).tokens
        for source in (state, dataclasses.replace(state, cache={}))
    ]
    assert np.array_equal(*found)


def test_a_stream_that_is_steered_is_the_clip_of_the_schedule(guided_generator):
    options = {name: value for name, value in SHORT.items() if name != "num_frames"}
    stream = guided_generator.stream(RED, num_frames=13, **options)
    next(stream)
    stream.control(prompt=BLUE)
    assert sum(map(len, stream)) == 12
    ((_, start),) = [(text, start) for start, text in stream.settings["prompts"] if text == BLUE]
    schedule = [(0, RED), ((4 * start - 3) / 8, BLUE)]
    expected = guided_generator.generate(schedule, num_frames=13, **options)
    assert expected.settings["prompts"] == stream.settings["prompts"]
    assert np.array_equal(stream.tokens, expected.tokens)


@pytest.mark.parametrize("kinds", [{"weights": "int8"}, {"cache": "int8"}, {"dtype": "bfloat16"}])
def test_other_numerics_draw_with_the_guided_weights_too(guided_checkpoint, guided_generator, kinds):
    try:
        generator = VideoGenerator.from_pretrained(guided_checkpoint, device="cpu", **kinds)
    except ReelmError as error:
        pytest.skip(str(error))
    found = tokens(generator, decoder="jacobi")
    assert np.array_equal(found, tokens(generator, decoder="sequential"))
    assert not np.array_equal(found, tokens(generator, guidance="two-row"))


def test_a_benchmark_draws_in_one_row(guided_generator):
    report = benchmark(guided_generator, check=True, baselines=False)
    assert report["rows_per_clip"] == 1
    assert all(row["ok"] for row in report["rows"])


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


def test_both_sets_of_weights_are_saved_and_loaded_alike(guided_checkpoint):
    lm = VideoGenerator.from_pretrained(guided_checkpoint, device="cpu", cache="int8").parts.lm
    assert lm.guided.config == dataclasses.replace(lm.config, guidance=None)
    assert (lm.guided.text, lm.guided.numerics, lm.guided.settled) == (lm.text, lm.numerics, True)
    assert lm.cost(1, 1).parameters == 2 * lm.guided.cost(1, 1).parameters
    assert lm.cost(1, 1).weights == 2 * lm.guided.cost(1, 1).weights
    written = load_tensors(guided_checkpoint / "lm.safetensors")
    for name, weight in written.items():
        twin = written.get(f"guided.{name}", weight)
        assert name.startswith("guided.") or twin.ndim < 2 or not torch.equal(twin, weight)


def test_a_wrong_method_is_refused(guided_generator):
    with pytest.raises(ReelmError, match="guidance: must be one of auto, two-row, got 'one-row'"):
        guided_generator.generate(RED, guidance="one-row")
