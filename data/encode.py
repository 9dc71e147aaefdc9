"""Prepared clips to token shards: what a language model of one's own clips learns from.

encode_shards(tokenizer, ClipShards("shards"), Path("tokens"), num_frames=17)

Every tar of clips becomes one file of tokens, so that many machines can share the work, and a run that was stopped goes
on. A window is encoded from its first frame on, as a clip that begins there.
"""

from pathlib import Path

import torch

from ..core.errors import require
from ..core.progress import progress
from ..core.shards import shard_origin, write_shard
from ..tokenizer.model import VideoTokenizer
from .clip_shards import ClipShards

BATCH = 16  # windows


@torch.no_grad()
def encode_shards(
    tokenizer: VideoTokenizer,
    shards: ClipShards,
    folder: Path,
    *,
    num_frames: int = 17,
    stride: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> int:
    """Encode the windows of all samples, and return how many there are in the shards of this rank.

    Token shards of the same tokenizer, clips and windows that are already there are kept.

    Args:
        tokenizer: whose tokens they become.
        shards: the clips, of one frame rate.
        folder: of the token shards.
        num_frames: frames of a window, 1 + a multiple of the tokenizer's `temporal`.
        stride: frames from the start of a window to that of the next one in its sample; `num_frames` unless given.
            Fewer give a small set of clips more to learn from.
        rank: of this process, from 0.
        world_size: processes that share the work.

    Raises:
        ReelmError: an argument is out of its range, no sample is as long as a window, or frame rates differ.
        ClipError: a shard is damaged.
    """
    stride = num_frames if stride is None else stride
    require(stride >= 1, "stride", "must be at least 1", stride)
    require(world_size >= 1, "world_size", "must be at least 1", world_size)
    require(0 <= rank < world_size, "rank", f"must be from 0 to {world_size - 1}", rank)
    tokenizer.grid(num_frames, shards.height, shards.width)
    longest = max((sample.frames for sample in shards.samples), default=0)
    require(longest >= num_frames, "num_frames", f"must be at most {longest}, the longest sample's frames", num_frames)
    rates = sorted({sample.fps for sample in shards.samples})
    require(len(rates) == 1, "data", "must have one frame rate (reelm prepare --fps)", rates)
    folder.mkdir(parents=True, exist_ok=True)
    made_by, total = tokenizer.tokens_id, 0
    numbers = sorted(set(shards.numbers))[rank::world_size]
    for number in progress(numbers, f"encoding windows of {num_frames} frames", unit="shard"):
        mine = [sample for sample, place in enumerate(shards.numbers) if place == number]
        windows = [
            (sample, start)
            for sample in mine
            for start in range(0, shards.samples[sample].frames - num_frames + 1, stride)
        ]
        total += len(windows)
        if not windows:
            continue
        path = folder / f"clips-{shards.split}-{number:05d}-{num_frames}.safetensors"
        # The CRCs stand for the clips' bytes, which their captions are no part of.
        clips = [(shards.samples[sample].crc32, shards.samples[sample].captions) for sample in mine]
        origin = f"tokenizer {made_by}, windows of {num_frames} every {stride}, clips {clips}"
        if shard_origin(path) != origin:
            tokens = _encode(tokenizer, shards, windows, num_frames)
            captions = [list(shards.samples[sample].captions) or [""] for sample, _ in windows]
            write_shard(path, tokens, captions, fps=rates[0], origin=origin)
    return total


def _encode(
    tokenizer: VideoTokenizer, shards: ClipShards, windows: list[tuple[int, int]], num_frames: int
) -> torch.Tensor:
    """Tokens (N, t, h, w) of windows (sample, first frame)."""
    device, tokens = next(tokenizer.parameters()).device, []
    for first in range(0, len(windows), BATCH):
        frames = [shards.read(sample, start, num_frames) for sample, start in windows[first : first + BATCH]]
        frames_BTHWC = torch.stack([torch.from_numpy(clip) for clip in frames])
        tokens.append(tokenizer.encode(frames_BTHWC.to(device)).cpu())
    return torch.cat(tokens)
