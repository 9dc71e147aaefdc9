"""Encode and decode clips of any length and size as a stream, in memory that does not grow with the length.

    frames = (frame for _, _, frame in stream_clip("holiday.mp4").frames)          # or any frames (H, W, 3) uint8
    for tokens_thw in encode_long(tokenizer, frames): ...            # each latent frame as soon as it is complete
    for frames_THW3 in decode_long(tokenizer, tokens, height=720, width=1280): ...      # uint8

Where the height or width is no multiple of the stride, the last row or column of pixels is repeated at the bottom or on
the right; where the frames do not fill whole latent frames, the last one is repeated. `decode_long` cuts this padding
off when it gets the size and the number of frames. An image is a clip of one frame.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from ..core.errors import require
from ..core.layout import Compression
from ..core.modes import in_plain_modes
from ..core.plain_values import to_tensor
from ..core.protocols import AnyCodec
from .tiles import TiledTokenizer, TileState

TILE = 96
Frame = np.ndarray | torch.Tensor


def pad_picture(frames_THW3: torch.Tensor, stride_h: int, stride_w: int) -> torch.Tensor:
    """Return frames padded to multiples of the stride by repeating the last row and the last column of pixels."""
    height, width = frames_THW3.shape[1:3]
    below, right = -height % stride_h, -width % stride_w
    if not below and not right:
        return frames_THW3
    rows = torch.arange(height + below, device=frames_THW3.device).clamp(max=height - 1)
    columns = torch.arange(width + right, device=frames_THW3.device).clamp(max=width - 1)
    return frames_THW3[:, rows][:, :, columns]


def _groups(frames: Iterable[Frame], compression: Compression, chunk: int) -> Iterator[torch.Tensor]:
    """Yield the frames of latent frame 0, then of `chunk` latent frames at a time; the last group repeats its last."""
    pending: list[torch.Tensor] = []
    shape, group_size, multiple = None, compression.first, compression.first
    for frame in frames:
        frame_HW3 = to_tensor(frame)
        fits = frame_HW3.ndim == 3 and frame_HW3.shape[2] == 3 and frame_HW3.dtype == torch.uint8
        require(fits and min(frame_HW3.shape) > 0, "frames", "must be (height, width, 3) uint8",
                (tuple(frame_HW3.shape), str(frame_HW3.dtype)))  # fmt: skip
        shape = frame_HW3.shape if shape is None else shape
        require(frame_HW3.shape == shape, "frames", f"must all be {tuple(shape)}", tuple(frame_HW3.shape))
        pending.append(frame_HW3)
        if len(pending) == group_size:
            yield torch.stack(pending)
            pending, group_size, multiple = [], chunk * compression.t, compression.t
    require(shape is not None, "frames", "must be at least one", 0)
    if pending:
        yield torch.stack([*pending, *[pending[-1]] * (-len(pending) % multiple)])


@in_plain_modes
@torch.no_grad()
def encode_long(
    tokenizer: AnyCodec, frames: Iterable[Frame], *, chunk: int = 1, tile: int = TILE
) -> Iterator[torch.Tensor]:
    """Yield the tokens (t, h, w) of a clip: latent frame 0 first, then `chunk` latent frames at a time.

    Args:
        tokenizer: The tokenizer to use.
        frames: The frames (H, W, 3) uint8 of the clip in order; they are read only as far as needed.
        chunk: The number of latent frames that are computed at once.
        tile: The largest number of rows and of columns of tokens that are computed at once.

    Raises:
        ReelmError: There is no frame, or a frame has another dtype or size.
    """
    require(chunk >= 1, "chunk", "must be at least 1", chunk)
    tiled, stride = TiledTokenizer(tokenizer, tile), tokenizer.compression
    device = tokenizer.device
    state: TileState | None = None
    for group_THW3 in _groups(frames, stride, chunk):
        padded = pad_picture(group_THW3, stride.h, stride.w)
        tokens_Bthw, state = tiled.encode_chunk(padded[None].to(device), state)
        yield tokens_Bthw[0].cpu()


@in_plain_modes
@torch.no_grad()
def decode_long(
    tokenizer: AnyCodec,
    tokens: Iterable[torch.Tensor],
    *,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    tile: int = TILE,
) -> Iterator[torch.Tensor]:
    """Yield the frames (T, H, W, 3) uint8 of a clip's tokens, a latent frame at a time.

    Args:
        tokenizer: The tokenizer that encoded the clip.
        tokens: The tokens of the clip in parts (t, h, w) of any number of latent frames.
        height: The rows of pixels of the clip without padding; None keeps the padding.
        width: The columns of pixels of the clip without padding; None keeps the padding.
        num_frames: The number of frames of the clip without padding; None keeps the padding.
        tile: The largest number of rows and of columns of tokens that are computed at once.

    Raises:
        ReelmError: A part differs in size from the one before it, or the size or length does not fit the tokens.
    """
    tiled, stride, done = TiledTokenizer(tokenizer, tile), tokenizer.compression, 0
    device, cells = tokenizer.device, None
    state: TileState | None = None
    for part_thw in tokens:
        fits = part_thw.ndim == 3 and cells in (None, part_thw.shape[1:])
        require(fits, "tokens", f"must be (t, {'h, w' if cells is None else f'{cells[0]}, {cells[1]}'})",
                tuple(part_thw.shape))  # fmt: skip
        cells = part_thw.shape[1:]
        for name, size, most in (("height", height, cells[0] * stride.h), ("width", width, cells[1] * stride.w)):
            rule = f"must be from {most - stride.h + 1} to {most}"
            require(size is None or most - stride.h < size <= most, name, rule, size)
        for token_frame in part_thw.split(1):
            if num_frames is not None and done >= num_frames:
                return
            frames_BTHW3, state = tiled.decode_chunk(token_frame[None].to(device), state)
            left = frames_BTHW3.shape[1] if num_frames is None else num_frames - done
            kept = frames_BTHW3[0, :left, :height, :width]
            done += len(kept)
            yield (kept.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    require(
        num_frames is None or done == num_frames, "num_frames", f"must be at most {done} with these tokens", num_frames
    )
