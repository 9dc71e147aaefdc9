"""Check what a tokenizer is given: networks and quantizers give some answer to anything.

check_frames(frames_BTHW3)              # before frames are encoded
check_latents(latents)                  # before latents are quantized
check_tokens(tokens_Bthw, vocab_size)   # before tokens are decoded
"""

import torch

from ..core.errors import require


def check_frames(frames_BTHW3: torch.Tensor) -> None:
    """Check that frames are (B, T, H, W, 3), and uint8 or finite floats about [0, 1].

    Raises:
        ReelmError: They are not.
    """
    shape, dtype = tuple(frames_BTHW3.shape), frames_BTHW3.dtype
    fits = len(shape) == 5 and shape[4] == 3 and shape[0] > 0
    require(fits, "frames", "must be (batch, frames, height, width, 3)", shape)
    known = dtype == torch.uint8 or dtype.is_floating_point
    require(known, "frames", "must be uint8, or float from 0 to 1", str(dtype))
    if dtype.is_floating_point and frames_BTHW3.numel():
        least, most = (float(value) for value in frames_BTHW3.aminmax())
        # A reconstruction may lie a little outside; values from 0 to 255 are another scale. NaN fails both comparisons.
        require(least >= -1 and most <= 2, "frames", "must be finite values from 0 to 1 where they are float",
                (least, most))  # fmt: skip


def check_chunk(frames: int, temporal: int) -> None:
    """Check that the number of frames of a chunk after the first is a multiple of `temporal`.

    Raises:
        ReelmError: It is not.
    """
    whole = frames >= temporal and frames % temporal == 0
    require(whole, "num_frames", f"must be a multiple of {temporal} after the first chunk", frames)


def check_latents(latents: torch.Tensor) -> None:
    """Check that latents are finite; a quantizer has an id for NaN, too.

    Raises:
        ReelmError: They are not.
    """
    finite = bool(latents.isfinite().all())
    require(finite, "tokenizer", "must have weights that give finite latents", "NaN or infinity")


def check_tokens(tokens_Bthw: torch.Tensor, vocab_size: int) -> None:
    """Check that tokens are (B, t, h, w) whole numbers from 0 to `vocab_size` - 1.

    Raises:
        ReelmError: They are not.
    """
    shape, dtype = tuple(tokens_Bthw.shape), tokens_Bthw.dtype
    require(len(shape) == 4 and min(shape) > 0, "tokens", "must be (batch, t, h, w)", shape)
    whole = not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)
    require(whole, "tokens", "must be whole numbers", str(dtype))
    least, most = (int(value) for value in tokens_Bthw.aminmax())
    require(least >= 0 and most < vocab_size, "tokens", f"must be from 0 to {vocab_size - 1}", (least, most))
