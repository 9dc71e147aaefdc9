"""Calls under modes of torch that the caller has set: the tokens are the same, and the modes stay the caller's."""

import contextlib
import threading

import numpy as np
import pytest
import torch

from reelm import Video, VideoGenerator
from reelm.core.modes import in_plain_modes, plain_modes
from reelm.generation.session import SessionState
from reelm.tokenizer.long import decode_long, encode_long

RED = "a red ball moves left"


@contextlib.contextmanager
def restored(setter, value, usual):
    setter(value)
    try:
        yield
    finally:
        setter(usual)


MODES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: restored(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: restored(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "device": lambda: restored(torch.set_default_device, "meta", None),
    "device block": lambda: torch.device("meta"),
    "inference": torch.inference_mode,
    "deterministic": lambda: restored(torch.use_deterministic_algorithms, True, False),
    "gradients": torch.enable_grad,
    "no gradients": torch.no_grad,
}


def modes_now():
    """Everything that a mode may change, for the comparison of before and after."""
    return (
        torch.is_autocast_enabled("cpu"), torch.get_default_dtype(), torch.empty(0).device,
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.are_deterministic_algorithms_enabled(),
    )  # fmt: skip


def everything(generator, folder):
    """The numbers of every kind of call."""
    modes = modes_now()
    video = generator.generate(RED, seed=3, num_frames=5)
    longer = generator.continue_clip(video, num_frames=4, temperature=[(0, 0.5)], top_p=0.9)
    other = generator.continue_clip(video.frames, num_frames=4, seed=1)
    stream, streamed = generator.stream(RED, seed=3), []
    stream.control(temperature=[(0, 0.7), (0.5, 0.9)])
    for frames in stream:
        assert modes_now() == modes  # they come back between the steps
        streamed.append(frames)
        if len(streamed) == 2:
            break
    stream.close()
    session = SessionState.load(video.state.save(folder / "a.safetensors"))
    tokenizer = generator.parts.tokenizer
    tokens = torch.cat(list(encode_long(tokenizer, video.frames)))
    pixels = torch.cat(list(decode_long(tokenizer, [tokens])))
    found = [
        video.tokens, video.frames, longer.tokens, longer.frames, other.tokens, other.frames, *streamed,
        generator.decode(session).frames, generator.score(longer).nats_thw, tokens, pixels,
        tokenizer.encode(torch.from_numpy(video.frames)[None]),
        generator.drift(video)["windows"][0]["sharpness"],
    ]  # fmt: skip
    assert modes_now() == modes
    return [np.asarray(value) for value in found]


@pytest.fixture(scope="module")
def usual(debug_checkpoint, tmp_path_factory):
    """The numbers without any mode."""
    return everything(VideoGenerator.from_pretrained(debug_checkpoint, device="cpu"), tmp_path_factory.mktemp("usual"))


RARE = ("bfloat16", "device block", "gradients", "no gradients")


@pytest.mark.parametrize("mode", [pytest.param(m, marks=pytest.mark.slow) if m in RARE else m for m in MODES])
def test_the_callers_modes_change_nothing(debug_checkpoint, usual, tmp_path, mode):
    with MODES[mode]():
        generator = VideoGenerator.from_pretrained(debug_checkpoint, device="cpu")
        inside = everything(generator, tmp_path)
    outside = everything(generator, tmp_path) if mode == "inference" else inside
    for wanted, *found in zip(usual, inside, outside, strict=True):
        assert all(wanted.dtype == each.dtype and np.array_equal(wanted, each) for each in found)


def test_a_clip_of_inference_mode_has_usual_tensors(debug_generator):
    with torch.inference_mode():
        video = debug_generator.generate(RED, seed=3, num_frames=5)
    assert not any(tensor.is_inference() for tensor in (video.state.tokens_thw, *video.state.cache.values()))
    assert isinstance(debug_generator.continue_clip(video, num_frames=4), Video)


def test_a_default_dtype_comes_back_when_the_last_thread_is_out():
    inside, leave = threading.Event(), threading.Event()

    def other():
        with plain_modes():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with restored(torch.set_default_dtype, torch.float64, torch.float32):
        with plain_modes():
            thread.start()
            inside.wait(10)
        assert torch.get_default_dtype() == torch.float32  # the other thread still needs it
        leave.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64


def test_a_decorated_generator_has_its_modes_in_each_step_only():
    @in_plain_modes
    def numbers():
        for _ in range(2):
            yield torch.get_default_dtype()

    with restored(torch.set_default_dtype, torch.float64, torch.float32):
        for dtype in numbers():
            assert dtype == torch.float32 and torch.get_default_dtype() == torch.float64
