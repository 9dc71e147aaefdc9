"""The quantizer: continuous latents to token ids and back, by vector-quantize-pytorch behind one small interface.

quantizer = Quantizer(QuantizerConfig(kind="fsq", levels=(8, 8, 8, 8)))
codes_BSD, tokens_BS, loss = quantizer(latents_BSD)
codes_BSD = quantizer.codes(tokens_BS)                  # the decoder's input
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from ..core.errors import require
from ..core.plain_values import convert_fields
from ..kernels.nearest_code import nearest_code

MOST_CODES = 2**18
# A code of a learned codebook that gets fewer vectors than this share of the mean over all codes is replaced.
DEAD_SHARE = 0.1
_INITIALISED = "codebook._codebook.initted"


@dataclass(frozen=True, kw_only=True)
class QuantizerConfig:
    """The kind and the size of a quantizer.

    Attributes:
        kind: The algorithm: "fsq" (finite scalar quantization, Mentzer et al. 2023, arXiv 2309.15505), "vq" (a learned
            codebook with exponential moving averages, van den Oord et al. 2017, arXiv 1711.00937) or "lfq" (lookup-free
            quantization, Yu et al. 2023, arXiv 2310.05737).
        levels: The number of values of each latent channel, from 3 to 1000, for "fsq"; their product is the vocabulary
            size. The library refuses 2, for which its rounding is lopsided ("lfq" has two values a channel), and
            bounds latents too loosely for more than 1000, so that some have no id.
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
        levels = self.levels
        fits = isinstance(levels, tuple) and len(levels) > 0 and all(type(level) is int for level in levels)
        fits = fits and min(levels) >= 3 and max(levels) <= 1000 and math.prod(levels) <= MOST_CODES
        rule = f"must be a tuple of whole numbers from 3 to 1000, whose product is at most {MOST_CODES}"
        require(fits, "quantizer.levels", rule, levels)
        size, dim = self.codebook_size, self.codebook_dim
        fits = type(size) is int and 2 <= size <= MOST_CODES
        require(fits, "quantizer.codebook_size", f"must be a whole number from 2 to {MOST_CODES}", size)
        power = self.kind != "lfq" or size & (size - 1) == 0
        require(power, "quantizer.codebook_size", "must be a power of two for lfq", size)
        require(
            type(dim) is int and 1 <= dim <= 1024,
            "quantizer.codebook_dim",
            "must be a whole number from 1 to 1024",
            dim,
        )
        require(0 <= self.spread < math.inf, "quantizer.spread", "must be finite and at least 0", self.spread)

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
            # What the library's versions differ in by default is given: the rotation trick needs two channels.
            self.codebook = VectorQuantize(
                dim=config.dim,
                codebook_size=config.codebook_size,
                decay=0.9,  # with 0.99 the codes lag a hundred steps behind the encoder
                kmeans_init=True,
                threshold_ema_dead_code=1,  # `_set_threshold` sets it before each step
                rotation_trick=config.dim > 1,
            )
            self.register_state_dict_post_hook(_write_one_format)
            self.register_load_state_dict_pre_hook(_read_any_format)

    def forward(self, latents_BSD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return codes (B, S, D) with straight-through gradients, ids (B, S) int64, and a scalar auxiliary loss."""
        with torch.autocast(latents_BSD.device.type, enabled=False):
            if self.config.kind == "vq" and not self.training and self.codebook._codebook.initted:
                return self._nearest(latents_BSD.float())
            if self.config.kind == "vq" and self.training:
                self._set_threshold(latents_BSD.shape[0] * latents_BSD.shape[1])
            result = self.codebook(latents_BSD.float())
            codes, tokens = result[0], result[1].long()
            loss = result[2].sum() if len(result) > 2 else codes.new_zeros(())
            if self.training and self.config.kind == "fsq" and self.config.spread:
                loss = loss + self.config.spread * spread_loss(latents_BSD, codes, self.config.levels)
        return codes, tokens, loss

    def _set_threshold(self, vectors: int) -> None:
        """Let the library replace codes that get fewer than `DEAD_SHARE` of the mean number of vectors a code.

        The library averages the number of vectors of a code over about the last ten steps (`decay`), and replaces the
        code by a random vector of the batch where this number is below `threshold_ema_dead_code`. That number is
        absolute (2 in SoundStream, Zeghidour et al. 2021, arXiv 2107.03312): it fits one size of batch and codebook
        only, and where the mean is below it, a third of the codes is replaced again and again.
        """
        codebook = self.codebook._codebook
        codebook.threshold_ema_dead_code = codebook.reset_cluster_size = (
            DEAD_SHARE * vectors / self.config.codebook_size
        )

    def _nearest(self, latents_BSD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Quantize with a learned codebook outside training, without the library's full matrix of distances."""
        tokens_BS = nearest_code(latents_BSD.flatten(0, 1), self.codebook.codebook).view(latents_BSD.shape[:2])
        return self.codes(tokens_BS), tokens_BS, latents_BSD.new_zeros(())

    def codes(self, tokens_BS: torch.Tensor) -> torch.Tensor:
        """Return the codes (B, S, D) of ids (B, S)."""
        if self.config.kind == "vq":
            return self.codebook.get_codes_from_indices(tokens_BS)
        return self.codebook.indices_to_codes(tokens_BS)


def _write_one_format(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Give the library's flag "has a codebook" one format in all files: its versions write (1,) float32 or () bool."""
    state[prefix + _INITIALISED] = state[prefix + _INITIALISED].reshape(()).bool()


def _read_any_format(module: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """Turn the flag into the format that this version of the library has."""
    own, name = module.get_buffer(_INITIALISED), prefix + _INITIALISED
    if name in state and state[name].numel() == 1:
        state[name] = state[name].reshape(own.shape).to(own.dtype)


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
