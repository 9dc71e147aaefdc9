"""Draw and time one batch of clips in one variant of a benchmark.

run = run_clips(parts, variant, plans, sampling, latent_frames)      # run.tokens_BtS, run.sampling (seconds), …
"""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..core.clock import Mark, mark, now, seconds_between
from ..core.memory import memory_bytes
from ..generation.pixels import PixelDecoder
from ..generation.pretrained import Pretrained
from ..sampling.engine import Engine
from ..sampling.plan import ClipPlan, SamplingConfig
from .variants import Variant

MINUTE_INTERVALS_FROM = 180.0  # seconds of a clip


@dataclass(frozen=True)
class ClipRun:
    """The tokens and times of one batch of clips.

    Attributes:
        tokens_BtS: The tokens of the clips, in writing order.
        total: The seconds of the whole run.
        first: The seconds until the first frame is complete.
        frames: The seconds of each latent frame, including its pixels.
        sampled: The seconds of sampling each latent frame.
        passes_of_frames: The number of passes of each latent frame.
        passes: The seconds of each pass.
        tokens_per_pass: The mean number of tokens of a clip that a pass accepts.
        memory_early: The bytes in use after two of the compared intervals; see `interval_frames`.
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
        """The seconds of sampling all latent frames."""
        return sum(self.sampled)


@torch.no_grad()
def run_clips(
    parts: Pretrained, variant: Variant, plans: Sequence[ClipPlan], sampling: SamplingConfig, latent_frames: int
) -> ClipRun:
    """Draw the clips and, unless the model is a preset, decode them to pixels, one latent frame after the other.

    A latent frame is complete when every clip has it, because some clips may be ahead of others.
    """
    device, layout = parts.lm.device, parts.lm.layout
    run_start, memory, ends = now(device), 0, list[tuple[Mark, int]]()
    _, settings = sampling.chosen(parts.lm)
    engine = Engine(
        variant.lm, settings, capacity=len(plans), decoder=variant.decoder,
        on_step=lambda passes, _: ends.append((mark(device), passes)),
    )  # fmt: skip
    clips = [engine.add(dataclasses.replace(plan, latent_frames=latent_frames)) for plan in plans]
    tokens_BtS = torch.empty(len(plans), latent_frames, layout.frame_size, dtype=torch.int64, device=device)
    pixels = PixelDecoder(parts.tokenizer)
    first, frames, sampled, counts, passes = 0.0, list[float](), list[float](), list[int](), list[float]()
    emitted = dict.fromkeys(clips, 0)
    for index in range(latent_frames):
        start, passes_before = now(device), engine.stats.passes
        start_mark = mark(device)
        while min(emitted.values()) <= index:
            for frame in engine.step():
                tokens_BtS[clips.index(frame.clip), frame.number] = frame.tokens_S
                emitted[frame.clip] += 1
        sampled.append(now(device) - start)
        counts.append(engine.stats.passes - passes_before)
        # A step may consist of several passes.
        for (begin, before), (end, after) in itertools.pairwise([(start_mark, passes_before), *ends]):
            passes += [seconds_between(begin, end) / (after - before)] * (after - before)
        ends.clear()
        if not parts.random:
            pixels.decode(dict(enumerate(layout.unpack(tokens_BtS[:, index])["video"])))
        frames.append(now(device) - start)
        first = now(device) - run_start if index == 0 else first
        if index == 2 * interval_frames(parts, latent_frames):
            memory = memory_bytes(device)
    stats, total = engine.stats, now(device) - run_start
    per_pass = stats.tokens / max(1, stats.steps)
    return ClipRun(tokens_BtS, total, first, frames, sampled, counts, passes, per_pass, memory)


def interval_frames(parts: Pretrained, latent_frames: int) -> int:
    """Return the latent frames of each compared interval: ten seconds, or one minute of a long clip."""
    rate = parts.config.fps / parts.tokenizer.compression.t
    return int(rate * (60 if latent_frames >= MINUTE_INTERVALS_FROM * rate else 10))
