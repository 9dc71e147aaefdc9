"""Clips of any length and size to tokens and back, as a stream: memory depends on the picture alone, not on the length.

    stream = stream_clip("holiday.mp4")                              # or any frames (H, W, 3) uint8
    for tokens_thw in encode_long(tokenizer, stream.frames): ...     # latent frames as they are complete
    for frames_THW3 in decode_long(tokenizer, tokens, height=720, width=1280): ...      # uint8

Where the stride does not divide the height or width, the last row or column of pixels is repeated at the bottom and on
the right; where the length is not 1 + n * temporal, the last frame is repeated. `decode_long` cuts both off again when
it is told the size and the number of frames. An image is a clip of one frame.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from ..core.errors import require
from .tiles import TileCache, TiledTokenizer
from .video_tokenizer import VideoTokenizer

TILE = 96
Frame = np.ndarray | torch.Tensor


def pad_picture(frames_THW3: torch.Tensor, stride_h: int, stride_w: int) -> torch.Tensor:
    """Frames whose sides are multiples of the stride: the last row and column go on."""
    height, width = frames_THW3.shape[1:3]
    below, right = -height % stride_h, -width % stride_w
    if not below and not right:
        return frames_THW3
    rows = torch.arange(height + below, device=frames_THW3.device).clamp(max=height - 1)
    columns = torch.arange(width + right, device=frames_THW3.device).clamp(max=width - 1)
    return frames_THW3[:, rows][:, :, columns]


def _groups(frames: Iterable[Frame], temporal: int, chunk: int) -> Iterator[torch.Tensor]:
    """Frame 0, then `chunk` latent frames at a time, the last of them filled up with the last frame."""
    waiting: list[torch.Tensor] = []
    shape, wanted = None, 1
    for frame in frames:
        frame_HW3 = torch.as_tensor(frame)
        fits = frame_HW3.ndim == 3 and frame_HW3.shape[2] == 3 and frame_HW3.dtype == torch.uint8
        require(fits and min(frame_HW3.shape) > 0, "frames", "must be (height, width, 3) uint8",
                (tuple(frame_HW3.shape), str(frame_HW3.dtype)))  # fmt: skip
        shape = frame_HW3.shape if shape is None else shape
        require(frame_HW3.shape == shape, "frames", f"must all be {tuple(shape)}", tuple(frame_HW3.shape))
        waiting.append(frame_HW3)
        if len(waiting) == wanted:
            yield torch.stack(waiting)
            waiting, wanted = [], chunk * temporal
    require(shape is not None, "frames", "must be at least one", 0)
    if waiting:
        yield torch.stack([*waiting, *[waiting[-1]] * (-len(waiting) % temporal)])


@torch.no_grad()
def encode_long(
    tokenizer: VideoTokenizer, frames: Iterable[Frame], *, chunk: int = 1, tile: int = TILE
) -> Iterator[torch.Tensor]:
    """Tokens (t, h, w) of a clip, latent frame 0 first, then `chunk` latent frames at a time.

    Args:
        tokenizer: any.
        frames: (H, W, 3) uint8, one after the other; read only as far as needed.
        chunk: latent frames computed at once.
        tile: rows and columns of tokens computed at once.

    Raises:
        ReelmError: there is no frame, or one is of another kind or size.
    """
    require(chunk >= 1, "chunk", "must be at least 1", chunk)
    tiled, stride = TiledTokenizer(tokenizer, tile), tokenizer.compression
    device = next(tokenizer.parameters()).device
    cache: TileCache | None = None
    for group_THW3 in _groups(frames, stride.t, chunk):
        padded = pad_picture(group_THW3, stride.h, stride.w)
        tokens_Bthw, cache = tiled.encode_chunk(padded[None].to(device), cache)
        yield tokens_Bthw[0].cpu()


@torch.no_grad()
def decode_long(
    tokenizer: VideoTokenizer,
    tokens: Iterable[torch.Tensor],
    *,
    height: int | None = None,
    width: int | None = None,
    num_frames: int | None = None,
    tile: int = TILE,
) -> Iterator[torch.Tensor]:
    """Frames (T, H, W, 3) uint8 of the tokens of a clip, a latent frame at a time.

    Args:
        tokenizer: the one that made the tokens.
        tokens: (t, h, w), one part after the other, of any number of latent frames.
        height: of the clip before it was padded; None keeps whole tokens.
        width: the same.
        num_frames: of the clip before it was filled up; None keeps whole latent frames.
        tile: rows and columns of tokens computed at once.

    Raises:
        ReelmError: a part is of another size than the one before it, or the size or length does not belong to it.
    """
    tiled, stride, done = TiledTokenizer(tokenizer, tile), tokenizer.compression, 0
    device, cells = next(tokenizer.parameters()).device, None
    cache: TileCache | None = None
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
            frames_BTHW3, cache = tiled.decode_chunk(token_frame[None].to(device), cache)
            left = frames_BTHW3.shape[1] if num_frames is None else num_frames - done
            shown = frames_BTHW3[0, :left, :height, :width]
            done += len(shown)
            yield (shown.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    require(
        num_frames is None or done == num_frames, "num_frames", f"must be at most {done} with these tokens", num_frames
    )
