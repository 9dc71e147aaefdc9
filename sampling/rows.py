"""The row of a clip in the engine, and the rules that the segments of its latent frames set for tokens.

row = ClipRow(clip=0, plan=plan)
row.limit(frame_size=64, horizon=None)                              # the number of tokens that it may still accept now
rules = SegmentRules(layout, device)
tokens_BL = rules.with_given(tokens_BL, rows, offsets)               # given tokens in place of sampled ones
logits_RLV = rules.only_allowed(logits_RLV, positions_R, offsets)    # each segment has its own ids only
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..core.layout import FrameLayout
from .plan import ClipPlan

SAMPLED = -1  # in place of a given token: the token is sampled
FORBIDDEN = -1e30  # the logit of an id that a position cannot have; finite, as guidance subtracts logits


@dataclass
class ClipRow:
    """The state of a clip in the engine.

    Attributes:
        clip: The number of the clip.
        plan: The plan of the clip.
        position: The position of its next token, as the host knows it.
        conditioned: Whether its rows of the cache hold its conditions, which come before everything else.
        emitted: The number of latent frames that were handed out.
        anchor: The latent frame at which its cache begins.
        history: All its tokens so far, where there are logits processors that look at them; else empty.
        newest: Its newest latent frames, where the model has a horizon.
    """

    clip: int
    plan: ClipPlan
    position: int = 0
    conditioned: bool = False
    emitted: int = 0
    anchor: int = 0
    history: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    newest: list[torch.Tensor] = field(default_factory=list)

    def limit(self, frame_size: int, horizon: int | None) -> int:
        """Return the number of tokens that the clip may still accept now.

        The limit is the first of: the end of the clip, a change of its prompt, the model's horizon, and the second
        latent frame from here, as the cache keeps the newest tokens of no more latent frames.
        """
        full = None if horizon is None else self.anchor + horizon
        ends = (self.plan.latent_frames, self.plan.next_change(self.position // frame_size), full, self.emitted + 2)
        return min(end for end in ends if end is not None) * frame_size - self.position


class SegmentRules:
    """Keeps tokens to the segments of their positions; has no effect where a latent frame is its video alone."""

    def __init__(self, layout: FrameLayout, device: torch.device) -> None:
        """Make the tables of a layout on a device."""
        self._layout = layout
        self._allowed_SV = layout.allowed_SV.to(device) if len(layout.segments) > 1 else None

    def with_given(self, tokens_BL: torch.Tensor, rows: Sequence[ClipRow], offsets: Sequence[int]) -> torch.Tensor:
        """Return the tokens at these offsets from each clip's position, with given tokens in place of sampled ones."""
        layout, size = self._layout, self._layout.frame_size
        if not layout.has_given:
            return tokens_BL
        given_S, given = layout.given_S, []
        for row in rows:
            frames = {(row.position + offset) // size for offset in offsets}
            known = {frame: row.plan.given_tokens(layout, frame).where(given_S, SAMPLED) for frame in frames}
            indices = [divmod(row.position + offset, size) for offset in offsets]
            given.append(torch.stack([known[frame][index] for frame, index in indices]))
        given_BL = torch.stack(given).to(tokens_BL.device)
        return torch.where(given_BL == SAMPLED, tokens_BL, given_BL)

    def only_allowed(self, logits_RLV: torch.Tensor, positions_R: torch.Tensor, offsets: Sequence[int]) -> torch.Tensor:
        """Return the logits, with those of ids that the segment of a position does not have set to FORBIDDEN."""
        if self._allowed_SV is None:
            return logits_RLV
        offsets_L = torch.tensor(list(offsets), device=logits_RLV.device)
        indices_RL = (positions_R[:, None] + offsets_L) % self._layout.frame_size
        return logits_RLV.float().masked_fill(~self._allowed_SV[indices_RL], FORBIDDEN)


def first_anchor(latent_frames: int, horizon: int | None) -> int:
    """Return the latent frame at which a clip's cache begins when the next one after `latent_frames` is drawn.

    Whenever its horizon is reached, the cache begins anew with the newest half of it. The result depends on the length
    of the clip alone, not on whether the clip was saved and continued in between.
    """
    if horizon is None or latent_frames < horizon:
        return 0
    stride = horizon - horizon // 2
    return ((latent_frames - horizon) // stride + 1) * stride
