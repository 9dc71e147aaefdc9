"""Calls are held against what is free: what is refused, what is suggested instead, and that suggestions hold."""

import re
import time

import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.core.protocols import Numerics
from reelm.generation import admission
from reelm.generation.memory_plan import clip_bytes, plan_memory, show_bytes
from reelm.generation.request import make_request


@pytest.fixture
def leave(monkeypatch):
    """Leave so many bytes free, on every device."""

    def set_free(free):
        monkeypatch.setattr("reelm.generation.admission.available_memory", lambda device: free)

    return set_free


def plan_of(generator, lengths, batch, numerics=None, **options):
    numerics = numerics or generator.parts.lm.numerics
    return admission.plan_call(generator.parts.config, numerics, lengths, batch=batch, keep_state=False, **options)


def test_a_batch_that_does_not_fit_is_refused_before_anything_is_drawn(debug_generator, leave, monkeypatch):
    monkeypatch.setattr("reelm.generation.request.Engine", lambda *_, **__: pytest.fail("allocated"))
    prompts = ["a red ball"] * 64
    plan = plan_of(debug_generator, [5] * 64, 64)
    leave(plan.call - 1)
    with pytest.raises(ReelmError) as refusal:
        debug_generator.generate(prompts, seconds=2.0)
    assert str(refusal.value).startswith(
        f"memory: must be at least {show_bytes(plan.call)} beside the loaded model for 64 clips of up to 2.125 s, "
        f"64 at a time, in float32 on cpu, got {show_bytes(plan.call - 1)}; batch_size="
    )


def test_what_is_suggested_fits_and_more_does_not(debug_generator, leave):
    options = {"num_frames": [1 + 4 * number for number in range(8)], "seed": 1}
    leave(plan_of(debug_generator, list(range(1, 9)), 4).call)
    with pytest.raises(ReelmError, match=r"; batch_size=\d would fit$") as refusal:
        debug_generator.generate(["a red ball"] * 8, **options)
    size = int(str(refusal.value).split("batch_size=")[1][0])
    assert 4 <= size < 8
    assert len(debug_generator.generate(["a red ball"] * 8, batch_size=size, **options)) == 8
    with pytest.raises(ReelmError, match="batch_size="):
        debug_generator.generate(["a red ball"] * 8, batch_size=size + 1, **options)


def test_fewer_clips_then_a_shorter_one_then_nothing(debug_generator, leave):
    frames = clip_bytes(debug_generator.parts.config, 81)
    leave(plan_of(debug_generator, [81], 1).call + 3 * frames)
    with pytest.raises(ReelmError, match=r"(\d) of these clips a call with batch_size=1 would fit"):
        debug_generator.generate(["a red ball"] * 8, seconds=40.0, batch_size=1)
    leave(plan_of(debug_generator, [401], 1).call)
    with pytest.raises(ReelmError, match=r"one clip of (\d+)(\.\d+)? s would fit") as refusal:
        debug_generator.generate("a red ball", seconds=10_000.0)
    assert 150 < float(re.search(r"clip of ([\d.]+) s", str(refusal.value))[1]) <= 1601 / 8
    leave(1000)
    with pytest.raises(ReelmError, match=r"for 1 clips .* not even one latent frame would fit"):
        debug_generator.generate("a red ball")


def test_lengths_count_one_by_one(debug_generator, leave):
    config = debug_generator.parts.config
    even, uneven = (plan_of(debug_generator, lengths, 2) for lengths in ([41, 41], [41, 5]))
    assert even.frames - uneven.frames == clip_bytes(config, 41) - clip_bytes(config, 5)
    assert uneven.pixels == even.pixels  # they become pixels together
    assert even.seconds == uneven.seconds == (1 + 40 * 4) / 8
    streamed = plan_of(debug_generator, [1000], 1, whole=False)
    assert (streamed.frames, plan_of(debug_generator, [1000], 1).frames) == (0, clip_bytes(config, 1000))
    joined = plan_of(debug_generator, [41], 1, continuing=True)
    assert joined.joining == joined.frames == clip_bytes(config, 41)


def test_a_stream_is_as_large_as_one_latent_frame(debug_generator, leave):
    leave(plan_of(debug_generator, [1], 1, whole=False).call)
    next(debug_generator.stream("a red ball", seconds=80_000.0))
    next(debug_generator.stream("a red ball"))
    leave(plan_of(debug_generator, [1], 1, whole=False).call // 2)
    with pytest.raises(ReelmError, match="memory: "):
        debug_generator.stream("a red ball")  # at the call, not with the first frame


def test_a_clip_that_is_continued_counts_as_a_whole(debug_generator, leave):
    clip = debug_generator.generate("a red ball", seconds=4.0, seed=1)
    alone = plan_of(debug_generator, [9], 1).call
    leave(alone)
    with pytest.raises(ReelmError, match=r"for 1 clips of up to 8\.125 s"):
        debug_generator.continue_clip(clip, seconds=4.0)
    leave(None)  # the system does not tell: nothing is refused
    assert len(debug_generator.continue_clip(clip, seconds=0.5).frames) > len(clip.frames)


def test_a_state_that_is_kept_is_counted(debug_generator, leave):
    leave(plan_of(debug_generator, [5], 1).call)
    debug_generator.generate("a red ball", keep_state=False)
    with pytest.raises(ReelmError, match="memory: "):
        debug_generator.generate("a red ball", keep_state=True)


def test_with_a_gpu_long_clips_are_the_host_s(debug_generator, monkeypatch):
    config, options = debug_generator.parts.config, {"device": "cuda", "dtype": "bfloat16"}
    numerics = Numerics(device="cuda", dtype=torch.bfloat16)
    short, long = (plan_of(debug_generator, [count], 1, numerics) for count in (5, 5000))
    assert short.call == long.call
    assert long.host == clip_bytes(config, 5000)
    kept = plan_memory(config, keep_state=True, batch=3, **options)
    assert kept.host == plan_memory(config, keep_state=False, batch=3, **options).host + kept.batch * kept.state
    free = {"cuda": short.call, "cpu": long.host - 1}
    assert admission._fits(short, free["cuda"], free["cpu"])
    assert not admission._fits(long, free["cuda"], free["cpu"])
    assert not admission._fits(short, free["cuda"] - 1, free["cpu"])


def test_it_costs_less_than_a_millisecond(debug_generator):
    request = make_request(debug_generator.parts, "generate", ["a red ball"] * 8, {"num_frames": 17})
    took = []
    for _ in range(30):
        began = time.perf_counter()
        admission.admit(debug_generator.parts, request)
        took.append(time.perf_counter() - began)
    assert sorted(took)[len(took) // 4] < 1e-3
