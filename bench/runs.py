"""One batch of clips of a benchmark, drawn in one variant, with its times.

run = run_clips(parts, variant, plans, sampling, latent_frames)      # run.tokens_BtS, run.sampling (seconds), …
"""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.clock import mark, now, seconds_between
from ..core.memory import memory_bytes
from ..generation.pixels import PixelDecoder
from ..generation.pretrained import Pretrained
from ..sampling.engine import Engine
from ..sampling.plan import ClipPlan
from ..sampling.rules import SamplingConfig
from .variants import Variant

BY_THE_MINUTE_FROM = 180.0  # seconds of a clip


@dataclass(frozen=True)
class ClipRun:
    """A batch of clips.

    Attributes:
        tokens_BtS: what was drawn, as written.
        total: seconds in all.
        first: seconds to the first frame.
        frames: seconds of each latent frame, with its pixels.
        sampled: seconds of sampling each latent frame.
        passes_of_frames: passes for each latent frame.
        passes: seconds of each pass.
        tokens_per_pass: of a clip.
        memory_early: bytes in use after two of the stretches that are compared.
    """

    tokens_BtS: torch.Tensor
    total: float
    first: float
    frames: list[float]
    sampled: list[float]
    passes_of_frames: list[int]
    passes: list[float]
    tokens_per_pass: float
    memory_early: int

    @property
    def sampling(self) -> float:
        """Seconds of sampling."""
        return sum(self.sampled)


@torch.no_grad()
def run_clips(
    parts: Pretrained, variant: Variant, plans: Sequence[ClipPlan], sampling: SamplingConfig, latent_frames: int
) -> ClipRun:
    """Draw the clips; those of a model that is no preset become pixels too, latent frame by latent frame.

    A latent frame counts as there when every clip has it: clips may be ahead of each other.
    """
    device, layout = parts.lm.device, parts.lm.layout
    began, memory, ends = now(device), 0, list[tuple[Any, int]]()
    engine = Engine(
        variant.lm, sampling, capacity=len(plans), decoder=variant.decoder,
        on_step=lambda done, _: ends.append((mark(device), done)),
    )  # fmt: skip
    clips = [engine.add(dataclasses.replace(plan, latent_frames=latent_frames)) for plan in plans]
    tokens_BtS = torch.empty(len(plans), latent_frames, layout.frame_size, dtype=torch.int64, device=device)
    pixels = PixelDecoder(parts.tokenizer)
    first, frames, sampled, counts, passes = 0.0, list[float](), list[float](), list[int](), list[float]()
    emitted = dict.fromkeys(clips, 0)
    for index in range(latent_frames):
        start, done = now(device), engine.stats.passes
        opened = mark(device)
        while min(emitted.values()) <= index:
            for frame in engine.step():
                tokens_BtS[clips.index(frame.clip), frame.number] = frame.tokens_S
                emitted[frame.clip] += 1
        sampled.append(now(device) - start)
        counts.append(engine.stats.passes - done)
        for (begin, before), (end, after) in itertools.pairwise([(opened, done), *ends]):  # a step may be passes
            passes += [seconds_between(begin, end) / (after - before)] * (after - before)
        ends.clear()
        if not parts.random:
            pixels.decode(dict(enumerate(layout.unpack(tokens_BtS[:, index])["video"])))
        frames.append(now(device) - start)
        first = now(device) - began if index == 0 else first
        if index == 2 * flat_frames(parts, latent_frames):
            memory = memory_bytes(device)
    stats, total = engine.stats, now(device) - began
    per_pass = stats.tokens / max(1, stats.steps)
    return ClipRun(tokens_BtS, total, first, frames, sampled, counts, passes, per_pass, memory)


def flat_frames(parts: Pretrained, latent_frames: int) -> int:
    """Latent frames of the stretches that are compared: ten seconds, or a minute of a long clip."""
    rate = parts.config.fps / parts.tokenizer.compression.t
    return int(rate * (60 if latent_frames >= BY_THE_MINUTE_FROM * rate else 10))
