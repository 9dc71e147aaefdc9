"""The quantizer: continuous latents to token ids and back.

    quantizer = Quantizer(QuantizerConfig(kind="fsq", levels=(8, 8, 8, 8)))
    codes_BSD, tokens_BS, loss = quantizer(latents_BSD)
    codes_BSD = quantizer.codes(tokens_BS)                  # the decoder's input

A training step is computed by vector-quantize-pytorch. What a trained quantizer does is computed here, in a few lines
of plain torch: the import of that library takes longer than sampling a short clip.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from ..core.errors import require
from ..core.plain_values import convert_fields
from ..kernels.nearest_code import nearest_code

MOST_CODES = 2**18
# A code of a learned codebook that gets fewer vectors than this share of the mean over all codes is replaced.
DEAD_SHARE = 0.1
# The state of a learned codebook: the names of its buffers here and in the library.
_STATE = {
    "initialised": "initted", "cluster_size_Z": "cluster_size", "embed_avg_ZD": "embed_avg", "embed_ZD": "embed",
}  # fmt: skip


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
    """A quantizer of latents (B, S, D) to the nearest codes and their ids, always computed in float32.

    Only a learned codebook ("vq") has a state to save: its codes `embed_ZD`; `embed_avg_ZD` and `cluster_size_Z`, the
    moving averages from which training computes the codes; and `initialised`, whether there are codes yet.
    """

    initialised: torch.Tensor
    cluster_size_Z: torch.Tensor
    embed_avg_ZD: torch.Tensor
    embed_ZD: torch.Tensor
    levels_D: torch.Tensor
    basis_D: torch.Tensor

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        # The library's quantizer once a step needs it, in a list so that it is no part of this module's state.
        self._library: list[nn.Module] = []
        if config.kind == "vq":
            size = (config.codebook_size, config.dim)
            self.register_buffer("initialised", torch.tensor(False))
            self.register_buffer("cluster_size_Z", torch.ones(size[0]))
            self.register_buffer("embed_avg_ZD", torch.zeros(size))
            self.register_buffer("embed_ZD", torch.zeros(size))
            return
        # An id is a number whose digits are the levels of the channels; the first digit is the lowest in FSQ, the
        # highest in LFQ.
        levels = config.levels if config.kind == "fsq" else (2,) * config.dim
        basis_D = torch.tensor([math.prod(levels[:channel]) for channel in range(len(levels))])
        self.register_buffer("levels_D", torch.tensor(levels), persistent=False)
        self.register_buffer("basis_D", basis_D if config.kind == "fsq" else basis_D.flip(0), persistent=False)

    def forward(self, latents_BSD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return codes (B, S, D), ids (B, S) int64, and a scalar auxiliary loss.

        In training, the codes have straight-through gradients; otherwise there are no gradients, and the loss is 0.
        """
        with torch.autocast(latents_BSD.device.type, enabled=False):
            if self.training or (self.config.kind == "vq" and not self.initialised):
                return self._train(latents_BSD.float())
            tokens_BS = self._nearest(latents_BSD.float())
            return self.codes(tokens_BS), tokens_BS, torch.zeros((), device=latents_BSD.device)

    def codes(self, tokens_BS: torch.Tensor) -> torch.Tensor:
        """Return the codes (B, S, D) of ids (B, S)."""
        if self.config.kind == "vq":
            return self.embed_ZD[tokens_BS]
        levels_BSD = tokens_BS.unsqueeze(-1) // self.basis_D % self.levels_D
        half_D = self.levels_D // 2
        return (levels_BSD - half_D) / half_D if self.config.kind == "fsq" else levels_BSD * 2.0 - 1

    @torch.no_grad()
    def _nearest(self, latents_BSD: torch.Tensor) -> torch.Tensor:
        """Return the ids (B, S) of the nearest codes."""
        if self.config.kind == "vq":
            return nearest_code(latents_BSD.flatten(0, 1), self.embed_ZD).view(latents_BSD.shape[:2])
        if self.config.kind == "fsq":
            levels_BSD = bound(latents_BSD, self.levels_D).round().long() + self.levels_D // 2
        else:
            levels_BSD = latents_BSD > 0
        return (levels_BSD * self.basis_D).sum(-1)

    def _train(self, latents_BSD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute `forward` by the library, which updates a learned codebook in training and makes the first one."""
        config = self.config
        if not self._library:
            self._library.append(_library_quantizer(config))
        library = self._library[0].to(latents_BSD.device).train(self.training)
        if config.kind == "vq":
            # Codes are replaced that get fewer than a share of the mean number of vectors a code. The library averages
            # this number over about the last ten steps (`decay`), and replaces a code by a random vector of the batch
            # where it is below an absolute threshold (2 in SoundStream, Zeghidour et al. 2021, arXiv 2107.03312). That
            # fits one size of batch and codebook only: where the mean is below it, a third of the codes is replaced
            # again and again.
            book: Any = library._codebook
            vectors = latents_BSD.shape[0] * latents_BSD.shape[1]
            if dist.is_initialized():  # the library adds up what all processes of a training have counted
                vectors *= dist.get_world_size()
            book.threshold_ema_dead_code = book.reset_cluster_size = DEAD_SHARE * vectors / config.codebook_size
            for own, other in _STATE.items():  # versions of the library differ in the flag's shape and dtype
                setattr(book, other, getattr(self, own).view_as(getattr(book, other)).to(getattr(book, other).dtype))
        result = library(latents_BSD)
        if config.kind == "vq":
            for own, other in _STATE.items():
                setattr(self, own, getattr(book, other).view_as(getattr(self, own)).to(getattr(self, own).dtype))
        codes_BSD, tokens_BS = result[0], result[1].long()
        loss = result[2].sum() if len(result) > 2 else codes_BSD.new_zeros(())
        if self.training and config.kind == "fsq" and config.spread:
            loss = loss + config.spread * spread_loss(latents_BSD, codes_BSD, config.levels)
        return codes_BSD, tokens_BS, loss


def bound(latents_BSD: torch.Tensor, levels_D: torch.Tensor) -> torch.Tensor:
    """Map latents of FSQ to the range whose integers are the levels: of n levels -(n // 2) to (n - 1) // 2."""
    half_D = (levels_D - 1) * (1 + 1e-3) / 2
    offset_D = torch.where(levels_D % 2 == 0, 0.5, 0.0)
    return torch.tanh(latents_BSD + torch.atanh(offset_D / half_D)) * half_D - offset_D


def _library_quantizer(config: QuantizerConfig) -> nn.Module:
    # Imported here, since it imports torch's compiler and sympy, which take longer than sampling a short clip.
    from vector_quantize_pytorch import FSQ, LFQ, VectorQuantize

    if config.kind == "fsq":
        return FSQ(levels=list(config.levels))
    if config.kind == "lfq":
        return LFQ(codebook_size=config.codebook_size, dim=config.dim)
    # What the library's versions differ in by default is given: the rotation trick needs two channels.
    return VectorQuantize(
        dim=config.dim,
        codebook_size=config.codebook_size,
        decay=0.9,  # with 0.99 the codes lag a hundred steps behind the encoder
        kmeans_init=True,
        threshold_ema_dead_code=1,  # set before each step
        rotation_trick=config.dim > 1,
    )


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
