"""Calls that both type checkers must take, and the types that they must give; nothing here is run."""

from pathlib import Path
from typing import assert_type

import numpy as np
import torch
from PIL.Image import Image

from reelm import ClipStream, Video, VideoGenerator
from reelm.core.json_values import Json
from reelm.generation.options import OutputType
from reelm.generation.session import SessionState
from reelm.generation.video import Frames

generator = VideoGenerator.from_pretrained("world", device="cpu", dtype=torch.float32, weights="int8")
ball, ring = "a red ball rolls", "a blue ring spins"
turning = [(0, ball), (1.0, ring)]

# One prompt, and several.
video = assert_type(generator.generate(ball), Video)
assert_type(generator.generate(None, seconds=2), Video)
assert_type(generator.generate(turning, seconds=2), Video)
assert_type(generator.generate([(0, ball), (1.5, ring)]), Video)
assert_type(generator.generate([(np.float32(0), ball), (np.int64(1), ring)]), Video)
assert_type(generator.generate([ball, ring], seed=[1, 2], seconds=1), list[Video])
assert_type(generator.generate((ball, ring)), list[Video])
assert_type(generator.generate([turning, turning]), list[Video])
assert_type(generator.generate([ball, [(0, ball), (1.0, ring)]]), list[Video])
assert_type(generator.generate(ball, num_videos_per_prompt=3), list[Video])
assert_type(generator.generate([ball, ring], num_videos_per_prompt=np.int64(3)), list[Video])
for each in generator.generate([ball, ring]):
    assert_type(each.save("clip.mp4"), Path)

# Frames alone.
assert_type(generator.generate(ball, output_type="np"), np.ndarray)
assert_type(generator.generate(ball, output_type="pt"), torch.Tensor)
assert_type(generator.generate(ball, output_type="pil"), list[Image])
assert_type(generator.generate([ball, ring], output_type="np"), list[np.ndarray])
assert_type(generator.generate([ball, ring], output_type="pt"), list[torch.Tensor])
assert_type(generator.generate(ball, num_videos_per_prompt=2, output_type="pil"), list[list[Image]])
assert_type(generator.continue_clip(video, output_type="np"), np.ndarray)
assert_type(generator.decode("ball.safetensors", output_type="pt"), torch.Tensor)


def frames_in(form: OutputType) -> Frames:
    """A form that is not known before the program runs."""
    return generator.generate(ball, output_type=form)


# Every option, by numbers of Python, numpy and torch.
generator.generate(
    ball, negative_prompt=ring, seed=7, guidance_scale=3, temperature=0.8, top_k=50, top_p=0.9, min_p=0.1, height=64,
    width=64, decoder="jacobi", block_size=16, conditions=(), controls={"action": [[0, 1], [2, 3]]}, seconds=1.5,
    batch_size=1, keep_state=True, callback_on_step_end=lambda passes, tokens: None,
    callback_on_tokens=lambda states: None, logits_processor=lambda ids, scores: scores,
)  # fmt: skip
generator.generate(
    ball, seed=np.int64(7), guidance_scale=np.float32(3), temperature=np.float64(0.8), top_k=np.int32(50),
    top_p=np.float32(0.9), min_p=np.float32(0.1), height=np.int64(64), width=np.int64(64), block_size=np.uint8(16),
    num_frames=np.int64(9), batch_size=np.int16(1), controls={"action": np.zeros(4, np.int64)},
)  # fmt: skip
generator.generate(
    ball, seed=torch.tensor(7), guidance_scale=torch.tensor(3.0), temperature=[(0, 1.0), (np.float32(1), 0.7)],
    seconds=np.array(1.5), controls={"action": torch.zeros(4)}, generator=None,
)  # fmt: skip
generator.generate([ball, ring], seed=np.arange(2), seconds=np.array([1.0, 2.0]), negative_prompt=[ring, ball])
generator.generate([ball, ring], seed=torch.arange(2), num_frames=[9, np.int64(17)])
generator.generate([ball, ring], generator=[torch.Generator(), torch.Generator()], seconds=[1, 2.5])

# On from a clip.
assert_type(generator.continue_clip(video, seconds=4, fit="pad", detail=False), Video)
assert_type(generator.continue_clip("ball.mp4", prompt=ring), Video)
assert_type(generator.continue_clip(Path("ball.mp4"), prompt=turning, num_frames=np.int64(8)), Video)
assert_type(generator.continue_clip(np.zeros((5, 64, 64, 3), np.uint8)), Video)
assert_type(generator.continue_clip(torch.zeros(5, 3, 64, 64), temperature=0.5, seed=np.int64(3)), Video)
assert_type(generator.continue_clip([np.zeros((64, 64, 3), np.uint8)] * 2), Video)
assert_type(generator.continue_clip(video.to("pil")), Video)
assert_type(generator.continue_clip(image="ball.png"), Video)
assert_type(generator.continue_clip(image=Path("ball.png"), seconds=2), Video)
assert_type(generator.continue_clip(image=video.to("pil")[0], output_type="pil"), list[Image])
if video.state is not None:
    assert_type(generator.continue_clip(video.state), Video)
assert_type(generator.decode(SessionState.load("ball.safetensors")), Video)
assert_type(generator.decode(Path("ball.safetensors")), Video)
assert_type(generator.score(video, ring).nats_per_token, float)

# As it comes.
stream = assert_type(generator.stream(ball, seed=np.uint64(7), temperature=0.9, seconds=np.float32(3)), ClipStream)
with generator.stream(turning, guidance_scale=2) as entered:
    assert_type(entered, ClipStream)
for frames in stream:
    assert_type(frames, np.ndarray)
    stream.control(prompt=ring, temperature=np.float32(0.7))
    stream.control(prompt=turning, temperature=[(0, 0.7), (2.0, 1.0)], controls={"action": [1, 2]})
assert_type(stream.tokens, np.ndarray)
assert_type(stream.segments, dict[str, np.ndarray])
assert_type(stream.settings, Json)
assert_type((stream.fps, stream.seed, stream.prompt), tuple[float, int, str])
assert_type(stream.close(), None)
