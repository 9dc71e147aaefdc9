"""From logits to tokens for the clips of a rollout: guidance, the user's processors, temperatures, rules and noise.

    draw = Draw(settings, processors, vocab_size, frame_size, device)
    tokens_BL = draw(logits_RLV, plans, positions)

A token depends on the logits of its position and on the noise of its clip there, and on nothing else.
"""

from collections.abc import Sequence

import torch

from ..kernels.backend import pick_backend
from ..kernels.sample import sample
from ..kernels.sample_reference import guide
from .noise import NoiseAhead, key_tensors
from .plan import ClipPlan
from .rules import LogitsProcessor, SamplingConfig


class Draw:
    """Draws the tokens of L positions of B clips at once; under guidance from 2 B rows of logits."""

    def __init__(
        self,
        settings: SamplingConfig,
        processors: Sequence[LogitsProcessor],
        vocab_size: int,
        frame_size: int,
        device: torch.device,
    ) -> None:
        self.settings, self.processors, self.frame_size = settings, tuple(processors), frame_size
        self.guided = settings.guidance_scale != 1.0
        self._ahead = NoiseAhead(vocab_size, device)

    def __call__(
        self,
        logits_RLV: torch.Tensor,
        plans: Sequence[ClipPlan],
        positions: Sequence[int],
        seen: Sequence[torch.Tensor] = (),
        offsets: Sequence[int] | None = None,
    ) -> torch.Tensor:
        """The tokens (B, L) of L positions of each clip, from its own position on or at these offsets from it.

        Args:
            logits_RLV: the rows with the prompts first.
            plans: the clips.
            positions: the first position of each.
            seen: the tokens (n,) of each clip before, where there are processors (then L = 1).
            offsets: of the L positions, ascending; by default 0, 1, ….
        """
        count, device, options = logits_RLV.shape[1], logits_RLV.device, dict(vars(self.settings))
        ahead = list(range(count) if offsets is None else offsets)
        if self.processors:
            logits_RLV = self._processed(logits_RLV[:, 0], seen)[:, None]
            options["guidance_scale"] = 1.0
        if any(plan.temperatures for plan in plans):
            logits_RLV = logits_RLV * self._warmth(logits_RLV, plans, positions, ahead)
            options["temperature"] = 1.0
        keys, noise_NV = [plan.key for plan in plans], None
        numbers_N = [torch.zeros(len(plans) * count, dtype=torch.int64, device=device)] * 3
        plain = pick_backend("sample", None, logits_RLV) == "reference"
        if options["temperature"] > 0 and plain and offsets is None:
            noise_NV = self._ahead.take(keys, positions, count).flatten(0, 1)
        elif options["temperature"] > 0:
            positions_BL = torch.tensor(positions, device=device)[:, None] + torch.tensor(ahead, device=device)
            numbers_N = [*(x_B.repeat_interleave(count) for x_B in key_tensors(keys, device)), positions_BL.flatten()]
        tokens_N = sample(logits_RLV.flatten(0, 1), *numbers_N, **options, noise_BV=noise_NV)
        return tokens_N.view(len(plans), count)

    def _warmth(
        self, logits_RLV: torch.Tensor, plans: Sequence[ClipPlan], positions: Sequence[int], ahead: Sequence[int]
    ) -> torch.Tensor:
        """What the logits (R, L, 1) are multiplied by: one over the temperature of each position's latent frame."""
        rows, default = logits_RLV.shape[0], self.settings.temperature
        values = [
            [1 / plan.temperature_at((position + offset) // self.frame_size, default) for offset in ahead]
            for plan, position in zip(plans, positions, strict=True)
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
