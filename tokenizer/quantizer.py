"""The quantizer: continuous latents to token ids and back, by vector-quantize-pytorch behind one small interface.

quantizer = Quantizer(QuantizerConfig(kind="fsq", levels=(8, 8, 8, 8)))
codes_BSD, tokens_BS, loss = quantizer(latents_BSD)
codes_BSD = quantizer.codes(tokens_BS)                  # the decoder's input
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ..core.errors import require
from ..core.plain_values import convert_fields
from ..kernels.nearest_code import nearest_code


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """The kind and the size of a quantizer.

    Attributes:
        kind: The algorithm: "fsq" (finite scalar quantization, Mentzer et al. 2023, arXiv 2309.15505), "vq" (a learned
            codebook with exponential moving averages, van den Oord et al. 2017, arXiv 1711.00937) or "lfq" (lookup-free
            quantization, Yu et al. 2023, arXiv 2310.05737).
        levels: The number of values of each latent channel, for "fsq"; their product is the vocabulary size.
        codebook_size: The vocabulary size, for "vq" and "lfq" (a power of two for "lfq").
        codebook_dim: The channels of a code, for "vq".
        spread: The weight of an auxiliary training loss, for "fsq". The loss is 0 where each channel's latents are
            spread evenly over its levels and channels are uncorrelated. Without it, early training leaves most codes
            of a large vocabulary unused.
    """

    kind: Literal["fsq", "vq", "lfq"] = "fsq"
    levels: tuple[int, ...] = (8, 8, 8, 8)
    codebook_size: int = 1024
    codebook_dim: int = 8
    spread: float = 0.0

    def __post_init__(self) -> None:
        convert_fields(self)
        require(self.kind in ("fsq", "vq", "lfq"), "quantizer.kind", "must be 'fsq', 'vq' or 'lfq'", self.kind)
        levels_fit = len(self.levels) > 0 and min(self.levels) >= 2 and math.prod(self.levels) <= 2**18
        require(
            levels_fit, "quantizer.levels", "each must be at least 2, and their product at most 262144", self.levels
        )
        size = self.codebook_size
        require(2 <= size <= 2**18, "quantizer.codebook_size", "must be between 2 and 262144", size)
        power = self.kind != "lfq" or size & (size - 1) == 0
        require(power, "quantizer.codebook_size", "must be a power of two for lfq", size)
        require(self.codebook_dim >= 1, "quantizer.codebook_dim", "must be at least 1", self.codebook_dim)
        require(self.spread >= 0, "quantizer.spread", "must be at least 0", self.spread)

    @property
    def vocab_size(self) -> int:
        """The number of token ids."""
        return math.prod(self.levels) if self.kind == "fsq" else self.codebook_size

    @property
    def dim(self) -> int:
        """Channels of a latent and of its code."""
        if self.kind == "fsq":
            return len(self.levels)
        return self.codebook_dim if self.kind == "vq" else int(math.log2(self.codebook_size))


class Quantizer(nn.Module):
    """A quantizer of latents (B, S, D) to the nearest codes and their ids, always computed in float32."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        # Imported here: this library pulls torch.compile's machinery and triton in, which `import reelm` must not.
        from vector_quantize_pytorch import FSQ, LFQ, VectorQuantize

        self.config = config
        if config.kind == "fsq":
            self.codebook = FSQ(levels=list(config.levels))
        elif config.kind == "lfq":
            self.codebook = LFQ(codebook_size=config.codebook_size, dim=config.dim)
        else:
            # The threshold re-initialises unused codes near the data; with the library's default of 0 most codes die.
            self.codebook = VectorQuantize(
                dim=config.dim,
                codebook_size=config.codebook_size,
                decay=0.99,
                kmeans_init=True,
                threshold_ema_dead_code=2,
            )

    def forward(self, latents_BSD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return codes (B, S, D) with straight-through gradients, ids (B, S) int64, and a scalar auxiliary loss."""
        with torch.autocast(latents_BSD.device.type, enabled=False):
            if self.config.kind == "vq" and not self.training and self.codebook._codebook.initted:
                return self._nearest(latents_BSD.float())
            result = self.codebook(latents_BSD.float())
            codes, tokens = result[0], result[1].long()
            loss = result[2].sum() if len(result) > 2 else codes.new_zeros(())
            if self.training and self.config.kind == "fsq" and self.config.spread:
                loss = loss + self.config.spread * spread_loss(latents_BSD, codes, self.config.levels)
        return codes, tokens, loss

    def _nearest(self, latents_BSD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quantize with a learned codebook outside training, without the library's full matrix of distances."""
        tokens_BS = nearest_code(latents_BSD.flatten(0, 1), self.codebook.codebook).view(latents_BSD.shape[:2])
        return self.codes(tokens_BS), tokens_BS, latents_BSD.new_zeros(())

    def codes(self, tokens_BS: torch.Tensor) -> torch.Tensor:
        """Return the codes (B, S, D) of ids (B, S)."""
        if self.config.kind == "vq":
            return self.codebook.get_codes_from_indices(tokens_BS)
        return self.codebook.indices_to_codes(tokens_BS)


def spread_loss(latents_BSD: torch.Tensor, codes_BSD: torch.Tensor, levels: tuple[int, ...]) -> torch.Tensor:
    """Return a loss that is 0 where the channels of FSQ codes use their levels evenly and are uncorrelated.

    The loss is the sum of two terms. The first is the mean squared distance, in units of the variance of the levels,
    between each channel's codes, sorted by their latents, and an even use of the levels (the Wasserstein distance in
    one dimension, as Kolouri et al. 2018, arXiv 1804.01947, use it for latents). The second is the mean squared
    correlation between channels (as in VICReg, arXiv 2105.04906).

    Args:
        latents_BSD: The latents of the batch, by which codes are sorted; they get no gradient here.
        codes_BSD: The codes of these latents; gradients pass through them.
        levels: The number of levels of each channel.
    """
    size_D = torch.tensor(levels, device=codes_BSD.device)
    # The library's codes are integers, divided by half the number of levels; for an even number of levels the integers
    # are centred at -1/2. Here they become levels that are one apart and centred at 0.
    levels_MD = codes_BSD.flatten(0, 1).float() * (size_D // 2) + (1 - size_D % 2) / 2
    variance_D = (size_D**2 - 1) / 12
    count = len(levels_MD)
    ranks_M1 = torch.arange(count, device=codes_BSD.device).unsqueeze(1)
    targets_MD = (ranks_M1 * size_D).div(count, rounding_mode="floor") - (size_D - 1) / 2
    sorted_MD = levels_MD.gather(0, latents_BSD.detach().flatten(0, 1).argsort(dim=0, stable=True))
    unevenness = ((sorted_MD - targets_MD).square().mean(0) / variance_D).mean()
    scaled_MD = levels_MD * variance_D.rsqrt()
    moments_DD = scaled_MD.T @ scaled_MD / count
    correlations_DD = moments_DD - moments_DD.diagonal().diag()
    return unevenness + correlations_DD.square().mean()
