"""Clips come, change, go, and go on elsewhere, each at its own position: every one has the tokens that it has alone."""

import dataclasses
import random

import numpy as np
import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.core.token_order import ORDERS
from reelm.generation.pixels import PixelDecoder
from reelm.lm.lm_config import LMConfig
from reelm.lm.text import TextEncoder
from reelm.lm.transformer import VideoTransformer
from reelm.sampling.decoders import Jacobi, Sequential
from reelm.sampling.engine import Engine
from reelm.sampling.plan import ClipPlan, NoiseKey, SamplingConfig

PROMPTS = ("a red ball moves left", "a blue ring spins over grass", "")


class Coming:
    """Two engines, the clips in them, and what all of them have come to so far."""

    def __init__(self, model, settings, decoder, seed):
        self.random, self.settings, self.model = random.Random(seed), settings, model
        self.engines = [Engine(model, settings, capacity=3, decoder=decoder()) for _ in range(2)]
        self.at: dict[int, tuple[int, int]] = {}  # clip of ours -> (engine, its number there)
        self.plans, self.tokens = {}, {}

    def place(self, clip, engine, tokens=None, state=None):
        self.at[clip] = engine, self.engines[engine].add(self.plans[clip], tokens, state)

    def add(self):
        """A new clip in whatever engine has room."""
        free = [number for number, engine in enumerate(self.engines) if engine.free]
        if free:
            clip = len(self.plans)
            prompts = ((0, self.random.choice(PROMPTS)),)
            key = NoiseKey(self.random.randrange(99), self.random.randrange(3))
            self.plans[clip] = ClipPlan(prompts=prompts, key=key, latent_frames=self.random.randint(1, 4))
            self.tokens[clip] = []
            self.place(clip, self.random.choice(free))

    def step(self):
        """A few tokens or many in one engine, of which clips of the other know nothing."""
        number = self.random.randrange(2)
        engine, ours = self.engines[number], {place: clip for clip, place in self.at.items()}
        wanted = engine.stats.tokens + self.random.choice([2, 20, 90])
        while engine.stats.tokens < wanted and not all(map(engine.ended, engine.clips)):
            for frame in engine.step():
                clip = ours[number, frame.clip]
                assert frame.number == len(self.tokens[clip])
                self.tokens[clip].append(frame.tokens_S)

    def remove(self):
        """One of the clips goes for good, wherever it stands."""
        if self.at:
            engine, there = self.at.pop(self.random.choice(list(self.at)))
            self.engines[engine].remove(there)

    def move(self):
        """A clip that is at its end goes on in an engine with room: from its state, or from its tokens alone."""
        ended = [clip for clip, (engine, there) in self.at.items() if self.engines[engine].ended(there)]
        if not ended:
            return
        clip = self.random.choice(ended)
        engine, there = self.at[clip]
        state = self.engines[engine].export(there)
        self.engines[engine].remove(there)
        longer = self.plans[clip].latent_frames + self.random.randint(1, 2)
        self.plans[clip] = dataclasses.replace(self.plans[clip], latent_frames=longer)
        free = [number for number, other in enumerate(self.engines) if other.free]
        state = state if self.random.random() < 0.7 else None
        self.place(clip, self.random.choice(free), torch.stack(self.tokens[clip]), state)

    def change(self):
        """A clip under way gets another prompt from its next latent frame on, and another length."""
        if not self.at:
            return
        clip = self.random.choice(list(self.at))
        engine, there = self.at[clip]
        start, plan = self.engines[engine].next_frame(there), self.plans[clip]
        before = tuple(entry for entry in plan.prompts if entry[0] < start)
        longer = max(plan.latent_frames, start + 1)
        changed = dataclasses.replace(
            plan, prompts=(*before, (start, self.random.choice(PROMPTS))), latent_frames=longer
        )
        self.plans[clip] = changed
        self.engines[engine].change(there, changed)

    def check(self):
        """Every clip is, as far as it came, what a plain engine makes of its plan alone."""
        for clip, found in self.tokens.items():
            engine = Engine(self.model, self.settings)
            alone = engine.add(dataclasses.replace(self.plans[clip], latent_frames=max(1, len(found))))
            wanted = []
            while found and not engine.ended(alone):
                wanted += [frame.tokens_S for frame in engine.step()]
            assert len(wanted) == len(found)
            assert all(torch.equal(mine, other) for mine, other in zip(wanted, found, strict=True)), clip


@pytest.fixture(params=ORDERS)
def small_model(request, debug_checkpoint):
    """The debug model with latent frames of 12 tokens and a window of three, so that rings wrap soon."""
    torch.manual_seed(0)
    config = LMConfig(vocab_size=25, rows=3, columns=4, order=request.param, window=3, width=32, depth=2, heads=2,
                      kv_heads=1, head_dim=16, hidden=32, neighbour_dim=8)  # fmt: skip
    model = VideoTransformer(config)
    for weight in model.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.3)
    model.text = TextEncoder((debug_checkpoint / "text.model").read_bytes())
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("decoder", [Sequential, lambda: Jacobi(5), lambda: Jacobi(24)], ids=["one", "five", "frames"])
def test_clips_that_come_and_go_are_what_they_are_alone(small_model, scale, decoder):
    coming = Coming(small_model, SamplingConfig(guidance_scale=scale, top_k=9), decoder, seed=int(2 * scale))
    actions = [coming.add, coming.step, coming.move, coming.change, coming.remove]
    for _ in range(80):
        coming.random.choices(actions, weights=[4, 9, 4, 2, 1])[0]()
    assert sum(map(len, coming.tokens.values())) >= 15
    coming.check()


def test_a_state_is_of_a_clip_where_a_latent_frame_ends(debug_generator):
    engine = Engine(debug_generator.parts.lm, SamplingConfig())
    clip = engine.add(ClipPlan(prompts=((0, ""),), key=NoiseKey(0), latent_frames=1))
    for _ in range(2):
        with pytest.raises(ReelmError, match=r"^clip: must stand where a latent frame ends"):
            engine.export(clip)
        engine.step()
    while not engine.ended(clip):
        engine.step()
    engine.export(clip)
    with pytest.raises(ReelmError, match=r"^capacity: must be more than the clips that are there"):
        engine.add(ClipPlan(prompts=((0, ""),), key=NoiseKey(0)))
    engine.remove(clip)
    with pytest.raises(ReelmError, match=r"^clip: must be one of \[\]"):
        engine.export(clip)


def test_rows_in_different_phases_become_the_pixels_that_they_are_alone(debug_generator):
    codec = debug_generator.parts.tokenizer
    clips = [torch.randint(25, (frames, 4, 6), generator=torch.Generator().manual_seed(frames)) for frames in (5, 3, 4)]
    starts = (0, 2, 1)  # when each of them comes
    together, shown = PixelDecoder(codec), [[] for _ in clips]
    for turn in range(5):
        now = {number: turn - start for number, start in enumerate(starts) if 0 <= turn - start < len(clips[number])}
        for number, frames in together.decode({number: clips[number][at] for number, at in now.items()}).items():
            shown[number].append(frames)
    for tokens_thw, parts in zip(clips, shown, strict=True):
        alone = PixelDecoder(codec)
        wanted = np.concatenate([alone.decode({0: tokens_hw})[0] for tokens_hw in tokens_thw])
        found = np.concatenate(parts)
        assert found.shape == wanted.shape
        assert np.array_equal(found, wanted)


def test_tokens_that_a_clip_cannot_have_are_refused_and_leave_no_clip(debug_generator):
    lm = debug_generator.parts.lm
    engine = Engine(lm, SamplingConfig(), capacity=2)
    plan = ClipPlan(prompts=((0, "a red ball"),), key=NoiseKey(1), latent_frames=2)
    for shape in ((1, 5), (3, lm.layout.frame_size), (lm.layout.frame_size,)):
        with pytest.raises(ReelmError, match=r"^tokens_tS: must"):
            engine.add(plan, torch.zeros(shape, dtype=torch.int64))
    assert engine.clips == [] and engine.step() == []
