"""One batch of clips of a benchmark, drawn in one way, with its times.

run = run_clips(parts, way, plans, sampling, latent_frames)      # run.tokens_Bthw, run.sampling (seconds), …
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.machine import mark, now, seconds_between
from .benchmark_ways import Way
from .machine import memory_bytes
from .plan import ClipPlan
from .pretrained import Pretrained
from .rollout import Rollout
from .rules import SamplingConfig

BY_THE_MINUTE_FROM = 180.0  # seconds of a clip


@dataclass(frozen=True)
class ClipRun:
    """A batch of clips.

    Attributes:
        tokens_Bthw: what was drawn.
        total: seconds in all.
        first: seconds to the first frame.
        frames: seconds of each latent frame, with its pixels.
        sampled: seconds of sampling each latent frame.
        passes_of_frames: passes for each latent frame.
        passes: seconds of each pass.
        tokens_per_pass: of a clip.
        memory_early: bytes in use after two of the stretches that are compared.
    """

    tokens_Bthw: torch.Tensor
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
    parts: Pretrained, way: Way, plans: Sequence[ClipPlan], sampling: SamplingConfig, latent_frames: int
) -> ClipRun:
    """Draw the clips; those of a model that is no preset become pixels too, latent frame by latent frame."""
    device = next(parts.lm.parameters()).device
    began, cache, memory, ends = now(device), None, 0, list[tuple[Any, int]]()
    with way.ops():
        rollout = Rollout(
            way.lm, parts.text, plans, sampling, decoder=way.decoder,
            on_step=lambda done, _: ends.append((mark(device), done)),
        )  # fmt: skip
        config = parts.config.lm
        tokens_Bthw = torch.empty(
            len(plans), latent_frames, config.rows, config.columns, dtype=torch.int64, device=device
        )
        first, frames, sampled, counts, passes = 0.0, list[float](), list[float](), list[int](), list[float]()
        for index in range(latent_frames):
            start, done = now(device), rollout.stats.passes
            opened = mark(device)
            tokens_Bthw[:, index] = rollout.next_frame()
            sampled.append(now(device) - start)
            counts.append(rollout.stats.passes - done)
            for (begin, before), (end, after) in itertools.pairwise([(opened, done), *ends]):  # a step may be passes
                passes += [seconds_between(begin, end) / (after - before)] * (after - before)
            ends.clear()
            if not parts.random:
                _, cache = parts.tokenizer.decode_chunk(tokens_Bthw[:, index : index + 1], cache)
            frames.append(now(device) - start)
            first = now(device) - began if index == 0 else first
            if index == 2 * flat_frames(parts, latent_frames):
                memory = memory_bytes(device)
    stats, total = rollout.stats, now(device) - began
    per_pass = stats.tokens / max(1, stats.steps)
    return ClipRun(tokens_Bthw, total, first, frames, sampled, counts, passes, per_pass, memory)


def flat_frames(parts: Pretrained, latent_frames: int) -> int:
    """Latent frames of the stretches that are compared: ten seconds, or a minute of a long clip."""
    rate = parts.config.fps / parts.tokenizer.compression.t
    return int(rate * (60 if latent_frames >= BY_THE_MINUTE_FROM * rate else 10))
