"""A clip under way in the engine, and what the segments of its latent frames ask for.

row = ClipRow(clip=0, plan=plan)
row.limit(frame_size=64, horizon=None)                              # how many more tokens it may accept now
rules = SegmentRules(layout, device)
tokens_BL = rules.with_given(tokens_BL, rows, offsets)               # given tokens in place of drawn ones
logits_RLV = rules.only_allowed(logits_RLV, positions_R, offsets)    # every segment keeps to its own ids
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..core.layout import FrameLayout
from .plan import ClipPlan

NOTHING = -1  # in place of a given token: the place is sampled
FORBIDDEN = -1e30  # the logit of an id that a place cannot have; finite, as guidance subtracts logits


@dataclass
class ClipRow:
    """A clip under way.

    Attributes:
        clip: its number.
        plan: what it is to become.
        position: of its next token, known to the host.
        conditioned: whether its rows of the cache hold anything, which begins with its conditions.
        emitted: latent frames that were handed out.
        anchor: the latent frame at which its cache begins.
        seen: its tokens so far, where there are logits processors to look at them.
        newest: its newest latent frames, where the model has a horizon.
    """

    clip: int
    plan: ClipPlan
    position: int = 0
    conditioned: bool = False
    emitted: int = 0
    anchor: int = 0
    seen: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    newest: list[torch.Tensor] = field(default_factory=list)

    def limit(self, frame_size: int, horizon: int | None) -> int:
        """How many more tokens the clip may accept now: up to its end, a change of its prompt, the model's horizon, or
        the second latent frame from here (of those before the newest tokens are kept)."""
        turn = None if horizon is None else self.anchor + horizon
        ends = (self.plan.latent_frames, self.plan.next_change(self.position // frame_size), turn, self.emitted + 2)
        return min(end for end in ends if end is not None) * frame_size - self.position


class SegmentRules:
    """Holds tokens to the segments that they belong to; where a latent frame is video alone it changes nothing."""

    def __init__(self, layout: FrameLayout, device: torch.device) -> None:
        """Make the tables of a layout on this device."""
        self._layout = layout
        self._allowed_SV = layout.allowed_SV.to(device) if len(layout.segments) > 1 else None

    def with_given(self, tokens_BL: torch.Tensor, rows: Sequence[ClipRow], offsets: Sequence[int]) -> torch.Tensor:
        """The same tokens, but for those that are given at these distances from each clip's position."""
        layout, size = self._layout, self._layout.frame_size
        if not layout.has_given:
            return tokens_BL
        given_S, given = layout.given_S, []
        for row in rows:
            frames = {(row.position + offset) // size for offset in offsets}
            known = {frame: row.plan.given_tokens(layout, frame).where(given_S, NOTHING) for frame in frames}
            places = [divmod(row.position + offset, size) for offset in offsets]
            given.append(torch.stack([known[frame][place] for frame, place in places]))
        given_BL = torch.stack(given).to(tokens_BL.device)
        return torch.where(given_BL == NOTHING, tokens_BL, given_BL)

    def only_allowed(self, logits_RLV: torch.Tensor, positions_R: torch.Tensor, offsets: Sequence[int]) -> torch.Tensor:
        """The same logits, but for ids that the segment of a position does not have."""
        if self._allowed_SV is None:
            return logits_RLV
        ahead_L = torch.tensor(list(offsets), device=logits_RLV.device)
        places_RL = (positions_R[:, None] + ahead_L) % self._layout.frame_size
        return logits_RLV.float().masked_fill(~self._allowed_SV[places_RL], FORBIDDEN)


def first_anchor(latent_frames: int, horizon: int | None) -> int:
    """The latent frame at which the cache of a clip begins when the one after so many latent frames is drawn.

    A model with a horizon begins anew with the newest half of it whenever that is reached, wherever a clip was saved
    and continued in between.
    """
    if horizon is None or latent_frames < horizon:
        return 0
    stride = horizon - horizon // 2
    return ((latent_frames - horizon) // stride + 1) * stride
