"""The positions of Cosmos-Predict1's tokens: rotary along time, rows and columns, and sines and cosines that are added.

    rotation = cosmos_rotation(config, positions_BL)                # (cos, sin), each (B, L, 1, E / 2)
    x_BLD = x_BLD + added_positions(config, positions_BL)

A position counts tokens in raster order; -1 is that of the begin token, whose angles and added numbers are zero.
Arithmetic is in float64, since a clip that rolls has no last latent frame.
"""

import functools
import math

import torch

from ..kernels.rotary import Rotation
from .cosmos_lm_config import CosmosLMConfig

# The latent frames, rows and columns that YaRN takes as the length of the original clips: waves that make less than
# one turn along them are lengthened, those of more than four turns are not, and those in between in part.
YARN_SHAPE = (3, 40, 40)
YARN_TURNS = (1.0, 4.0)
ADDED_BASE = 10_000.0


def cosmos_rotation(config: CosmosLMConfig, positions_BL: torch.Tensor, *, last_frame: int | None = None) -> Rotation:
    """Return the rotations (B, L, 1, E / 2) of tokens at these positions.

    Args:
        config: The sizes of the model.
        positions_BL: The positions, int64.
        last_frame: The latent frame that tokens of later ones are rotated as; None for none.
    """
    t_BL, y_BL, x_BL = _places(config, positions_BL)
    t_BL = t_BL if last_frame is None else t_BL.clamp(max=last_frame)
    frequencies = _rotary_frequencies(config, positions_BL.device)
    angles = [place[..., None] * each for place, each in zip((t_BL, y_BL, x_BL), frequencies, strict=True)]
    angles_BLF = torch.cat(angles, -1) * (positions_BL >= 0)[..., None]
    return angles_BLF.cos().float().unsqueeze(-2), angles_BLF.sin().float().unsqueeze(-2)


@functools.lru_cache
def _rotary_frequencies(config: CosmosLMConfig, device: torch.device) -> list[torch.Tensor]:
    """Return the frequencies along time, rows and columns."""
    # The axes share the channels: an even third each for rows and for columns, and what is left for time.
    space, found = config.head_dim // 6 * 2, []
    for size, length in zip((config.head_dim - 2 * space, space, space), YARN_SHAPE, strict=True):
        frequencies_F = config.theta ** -(torch.arange(0, size, 2, dtype=torch.float64, device=device) / size)
        if config.yarn_scale != 1:
            turns_F = frequencies_F * length / (2 * math.pi)
            kept_F = ((turns_F - YARN_TURNS[0]) / (YARN_TURNS[1] - YARN_TURNS[0])).clamp(0, 1)
            frequencies_F = frequencies_F * (kept_F + (1 - kept_F) / config.yarn_scale)
        found.append(frequencies_F)
    return found


def added_positions(config: CosmosLMConfig, positions_BL: torch.Tensor) -> torch.Tensor:
    """Return what is added to the states of tokens at these positions before every block, (B, L, D) float32."""
    parts, frequencies = [], _added_frequencies(config, positions_BL.device)
    for place_BL, each in zip(_places(config, positions_BL), frequencies, strict=True):
        angles_BLF = place_BL[..., None] * each
        parts += [angles_BLF.sin(), angles_BLF.cos()]
    return (torch.cat(parts, -1) * (positions_BL >= 0)[..., None]).float()


@functools.lru_cache
def _added_frequencies(config: CosmosLMConfig, device: torch.device) -> list[torch.Tensor]:
    """Return the frequencies of the sines and cosines along time, rows and columns."""
    space = config.width // 6 * 2
    return [
        ADDED_BASE ** -(torch.arange(size // 2, dtype=torch.float64, device=device) / (size / 2))
        for size in (config.width - 2 * space, space, space)
    ]


def _places(config: CosmosLMConfig, positions_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the latent frames, rows and columns of positions."""
    size, columns = config.frame_size, config.columns
    return positions_BL // size, positions_BL // columns % config.rows, positions_BL % columns
