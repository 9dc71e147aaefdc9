"""Teacher forcing: a decoder that accepts tokens that are known, and keeps the logits that they had.

forced = TeacherForcing(tokens_BS, block_size=64)
engine = Engine(model, SamplingConfig(guidance_scale=1.0), decoder=forced)
engine.step(); forced.logits_RLV                    # of the latest block

What is scored or checked in this way is what is sampled from: the same passes over the same cache.
"""

import torch

from .decoder import EngineView, Exactness


class TeacherForcing:
    """Accepts the tokens of clips that all stand at the same position, block by block.

    Attributes:
        logits_RLV: of the latest block.
    """

    name = "teacher forcing"
    exactness: Exactness = "exact"

    def __init__(self, tokens_BS: torch.Tensor, block_size: int) -> None:
        """Force the tokens of clips from their beginning, or from where they stand, on."""
        self.block_size = block_size
        self._blocks = iter(tokens_BS.split(block_size, 1))
        self.logits_RLV = torch.empty(0)

    def step(self, engine: EngineView) -> None:
        """One more block."""
        tokens_BL = next(self._blocks)
        batch, count = tokens_BL.shape
        engine.accept(tokens_BL, [0] * batch)  # as drafts, so that the pass sees them
        self.logits_RLV = engine.logits(count)
        engine.accept(tokens_BL, [count] * batch)
