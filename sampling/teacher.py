"""Teacher forcing: a decoder that accepts known tokens and keeps the logits of their positions.

forced = TeacherForcing(tokens_BS, block_size=64)
engine = Engine(model, SamplingConfig(guidance_scale=1.0), decoder=forced)
engine.step(); forced.logits_RLV                    # the logits of the latest block

A clip that is scored or checked in this way goes through the computation of sampling: the same passes over the same
cache.
"""

import torch

from .decoder import EngineView, Exactness


class TeacherForcing:
    """A decoder that accepts the tokens of clips, all at the same position, block by block.

    Attributes:
        logits_RLV: The logits of the latest block.
    """

    name = "teacher forcing"
    exactness: Exactness = "exact"

    def __init__(self, tokens_BS: torch.Tensor, block_size: int) -> None:
        """Force these tokens, from the current position of the clips on."""
        self.block_size = block_size
        self._blocks = iter(tokens_BS.split(block_size, 1))
        self.logits_RLV = torch.empty(0)

    def step(self, engine: EngineView) -> None:
        """Accept one more block of tokens."""
        tokens_BL = next(self._blocks)
        batch, count = tokens_BL.shape
        engine.accept(tokens_BL, [0] * batch)  # as drafts, so that the pass sees them
        self.logits_RLV = engine.logits(count)
        engine.accept(tokens_BL, [count] * batch)
