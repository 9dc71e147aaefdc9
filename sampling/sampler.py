"""From logits to tokens for the clips of an engine: guidance, the user's processors, temperatures, rules and noise.

    sampler = Sampler(settings, processors, model)
    sampler.begin(plans)
    tokens_BL = sampler(logits_RLV, positions)

A token depends on the logits of its position and on the noise of its clip there, and on nothing else.

`noise_bytes` and `draw_bytes` count the memory that drawing takes, tensor by tensor as the code allocates.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ..core.protocols import LanguageModel
from ..kernels.backend import pick_backend
from ..kernels.sample import sample
from ..kernels.sample_reference import guide
from .noise_keys import NoiseAhead, key_tensors
from .plan import ClipPlan
from .rules import LogitsProcessor, SamplingConfig

# What `gumbel_noise` holds for each number, five tensors of int64, and how many it makes at a time.
NOISE_BYTES, NOISE_AT_ONCE = 40, 2**17


class Sampler:
    """Draws the tokens of L positions of B clips at once; under guidance from 2 B rows of logits."""

    def __init__(self, settings: SamplingConfig, processors: Sequence[LogitsProcessor], model: LanguageModel) -> None:
        self.settings, self.processors, self.backend = settings, tuple(processors), model.backend
        self.frame_size = model.layout.frame_size
        self.guided = settings.guidance_scale != 1.0
        self._ahead = NoiseAhead(model.layout.vocab_size, model.device)
        self._keys_2B = torch.empty(2, 0, dtype=torch.int64, device=model.device)

    def begin(self, plans: Sequence[ClipPlan]) -> None:
        """Draw for these clips from now on."""
        self.plans = list(plans)
        keys_2B = key_tensors([plan.key for plan in plans], self._keys_2B.device)
        if keys_2B.shape == self._keys_2B.shape:
            self._keys_2B.copy_(keys_2B)  # in place: a graph may look there
        else:
            self._keys_2B = keys_2B

    def is_steady(self, logits_RLV: torch.Tensor) -> bool:
        """Whether `on_device` does it all: nothing is asked of the host, and noise is drawn where the logits are."""
        changes = self.processors or any(plan.temperatures for plan in self.plans)
        return not changes and pick_backend("sample", self.backend, logits_RLV) == "triton"

    def __call__(
        self,
        logits_RLV: torch.Tensor,
        positions: Sequence[int],
        seen: Sequence[torch.Tensor] = (),
        offsets: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """The tokens (B, L) of L positions of each clip, from its own position on or at these offsets from it.

        Args:
            logits_RLV: the rows with the prompts first.
            positions: the first position of each clip.
            seen: the tokens (n,) of each clip before, where there are processors (then L = 1).
            offsets: of the L positions, ascending; by default 0, 1, ….
        """
        count, options = logits_RLV.shape[1], dict(vars(self.settings))
        ahead = list(range(count) if offsets is None else offsets)
        if self.processors:
            logits_RLV = self._processed(logits_RLV[:, 0], seen)[:, None]
            options["guidance_scale"] = 1.0
        if any(plan.temperatures for plan in self.plans):
            logits_RLV = logits_RLV * self._warmth(logits_RLV, positions, ahead)
            options["temperature"] = 1.0
        noise_MV, plain = None, pick_backend("sample", self.backend, logits_RLV) == "reference"
        if options["temperature"] > 0 and plain and offsets is None:
            noise_MV = self._ahead.take([plan.key for plan in self.plans], positions, count).flatten(0, 1)
        device = logits_RLV.device
        positions_BL = torch.tensor(positions, device=device)[:, None] + torch.tensor(ahead, device=device)
        return self.on_device(logits_RLV, positions_BL, options, noise_MV)

    def on_device(
        self,
        logits_RLV: torch.Tensor,
        positions_BL: torch.Tensor,
        options: dict[str, Any] | None = None,
        noise_MV: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The tokens (B, L) of these positions, by the settings alone, or by these options of `sample`."""
        count = logits_RLV.shape[1]
        seeds_M, samples_M = self._keys_2B.repeat_interleave(count, 1)
        options = dict(vars(self.settings)) if options is None else options
        tokens_M = sample(
            logits_RLV.flatten(0, 1), seeds_M, samples_M, positions_BL.flatten(), **options, noise_BV=noise_MV,
            backend=self.backend,
        )  # fmt: skip
        return tokens_M.view(positions_BL.shape)

    def _warmth(self, logits_RLV: torch.Tensor, positions: Sequence[int], ahead: Sequence[int]) -> torch.Tensor:
        """What the logits (R, L, 1) are multiplied by: one over the temperature of each position's latent frame."""
        rows, default = logits_RLV.shape[0], self.settings.temperature
        values = [
            [1 / plan.temperature_at((position + offset) // self.frame_size, default) for offset in ahead]
            for plan, position in zip(self.plans, positions, strict=True)
        ]
        return torch.tensor(values, device=logits_RLV.device).repeat(rows // len(values), 1)[..., None]

    def _processed(self, logits_RV: torch.Tensor, seen: Sequence[torch.Tensor]) -> torch.Tensor:
        """What the user's processors make of the guided logits (B, V); clips of one length go together."""
        scores_BV = logits_RV.float()
        if self.guided:
            conditional_BV, unconditional_BV = scores_BV.chunk(2)
            scores_BV = guide(conditional_BV, unconditional_BV, self.settings.guidance_scale)
        together = len({len(ids_S) for ids_S in seen}) == 1
        results = []
        for group in [list(range(len(seen)))] if together else [[clip] for clip in range(len(seen))]:
            part_BV = scores_BV[group]
            for processor in self.processors:
                part_BV = processor(torch.stack([seen[clip] for clip in group]), part_BV)
            results.append(part_BV.float())
        return torch.cat(results)


def noise_bytes(vocab_size: int, batch: int, count: int) -> tuple[int, int]:
    """The bytes of the noise ahead at their height, and once it is there (`NoiseAhead`, `gumbel_noise`)."""
    block = NoiseAhead(vocab_size, torch.device("meta")).block
    numbers = batch * -(-count // block) * block * vocab_size
    # The block before, the new one in parts, and the new one as a whole: of all clips where they advance together.
    # Those of a block decoder drift apart, so that few draw in one pass: from 2 on, and 3 if none does drift.
    together = batch == 1 or count == 1
    return (12 if together else 10) * numbers + NOISE_BYTES * min(numbers, NOISE_AT_ONCE), 4 * numbers


def draw_bytes(vocab_size: int, rows: int, count: int, dtype: torch.dtype, sampling: SamplingConfig) -> int:
    """The bytes of the logits and of all that `sample_reference` makes of them."""
    clips = rows // 2 if sampling.guidance_scale != 1 else rows
    logits = rows * (dtype.itemsize + (0 if dtype == torch.float32 else 4))
    # The noise, the scores, those of them that are allowed, their sum; with top-p the order and its probabilities.
    return count * vocab_size * (logits + 4 * clips * (8 if sampling.top_p < 1 else 4))
