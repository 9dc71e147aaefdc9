"""Prepared clips to token shards: what a language model of one's own clips learns from.

encode_shards(tokenizer, ClipShards("shards"), Path("tokens"), Windows(num_frames=17, stride=4))

Every tar of clips becomes one file of tokens, so that many machines can share the work, and a run that was stopped goes
on. A window is encoded from its first frame on, as a clip that begins there.
"""

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.errors import require
from ..core.progress import progress
from ..tokenizer.video_tokenizer import VideoTokenizer
from .camera import moving_crop
from .clip_shards import ClipShards
from .crops import fitted, random_scale_crop
from .loader import mixed_bits
from .token_shards import shard_origin, write_shard

BATCH = 16  # crops


@dataclass(frozen=True, kw_only=True)
class Windows:
    """What is cut out of prepared clips. Few clips become more by windows that overlap, and by several crops of each.

    Attributes:
        num_frames: frames of a window, 1 + a multiple of the tokenizer's temporal compression.
        stride: frames from the start of a window to that of the next one in its clip; num_frames unless given.
        height: of a window in pixels; the clips' own unless given.
        width: of a window in pixels; the clips' own unless given.
        crops: of each window: the largest from the middle, and others from anywhere, of any size down to the window's
            own pixels; all are made as large as the window.
        mirror: mirror half of those others; leave it off where captions tell left from right.
        motion: how many pixels a frame those others move over the picture, as far as it has room, as if the camera did;
            a quarter of them play backwards, and a quarter over one frame. Leave it at 0 where captions tell of motion.
            See camera.py.
        seed: of the places, the mirroring and the motion.
    """

    num_frames: int = 17
    stride: int | None = None
    height: int | None = None
    width: int | None = None
    crops: int = 1
    mirror: bool = False
    motion: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"num_frames": self.num_frames, "stride": self.stride, "crops": self.crops}
        for name, value in least.items():
            require(value is None or value >= 1, name, "must be at least 1", value)
        for name in ("mirror", "motion"):
            unused = self.crops > 1 or not getattr(self, name)
            require(unused, name, "must be given with more than one crop", self.crops)
        require(0 <= self.motion <= 64, "motion", "must be from 0 to 64", self.motion)
        require(0 <= self.seed < 2**63, "seed", "must be from 0 to 2^63 - 1", self.seed)

    def told(self) -> dict[str, Any]:
        """What decides which crops there are."""
        unused = {"seed"} if self.crops == 1 else set[str]()
        values = asdict(self) | {"stride": self.stride or self.num_frames}
        return {name: value for name, value in values.items() if name not in unused}

    def starts(self, frames: int) -> range:
        """First frames of the windows of a clip."""
        return range(0, frames - self.num_frames + 1, self.stride or self.num_frames)


@torch.no_grad()
def encode_shards(
    tokenizer: VideoTokenizer,
    shards: ClipShards,
    folder: Path,
    windows: Windows | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> int:
    """Encode the windows of all samples, and return how many crops are in the shards of this rank.

    Token shards of the same tokenizer, clips and windows that are already there are kept.

    Args:
        tokenizer: whose tokens they become.
        shards: the clips, of one frame rate.
        folder: of the token shards.
        windows: of each clip.
        rank: of this process, from 0.
        world_size: processes that share the work.

    Raises:
        ReelmError: an argument is out of its range, no sample is as long as a window, or frame rates differ.
        ClipError: a shard is damaged.
    """
    windows = windows or Windows()
    height = shards.height if windows.height is None else windows.height
    size, num_frames = (height, shards.width if windows.width is None else windows.width), windows.num_frames
    require(world_size >= 1, "world_size", "must be at least 1", world_size)
    require(0 <= rank < world_size, "rank", f"must be from 0 to {world_size - 1}", rank)
    for name, got, most in zip(("height", "width"), size, (shards.height, shards.width), strict=True):
        require(1 <= got <= most, name, f"must be from 1 to {most}, which the clips have", got)
    several = windows.crops == 1 or windows.mirror or size != (shards.height, shards.width)
    require(several, "crops", "must be 1 where windows are as large as the clips, and not mirrored", windows.crops)
    tokenizer.grid(num_frames, *size)
    longest = max((sample.frames for sample in shards.samples), default=0)
    require(longest >= num_frames, "num_frames", f"must be at most {longest}, the longest sample's frames", num_frames)
    rates = sorted({sample.fps for sample in shards.samples})
    require(len(rates) == 1, "data", "must have one frame rate (reelm prepare --fps)", rates)
    folder.mkdir(parents=True, exist_ok=True)
    made_by, total = tokenizer.tokens_id, 0
    numbers = sorted(set(shards.numbers))[rank::world_size]
    for number in progress(numbers, f"encoding windows of {num_frames} frames", unit="shard"):
        mine = [sample for sample, place in enumerate(shards.numbers) if place == number]
        cut = [(sample, start) for sample in mine for start in windows.starts(shards.samples[sample].frames)]
        total += len(cut) * windows.crops
        if not cut:
            continue
        path = folder / f"clips-{shards.split}-{number:05d}-{num_frames}.safetensors"
        # The CRCs stand for the clips' bytes, which their captions are no part of.
        clips = [(shards.samples[sample].crc32, shards.samples[sample].captions) for sample in mine]
        origin = f"tokenizer {made_by}, {windows.told()}, clips {clips}"
        if shard_origin(path) != origin:
            tokens = _encode(tokenizer, _crops(shards, windows, cut, size))
            captions = [list(shards.samples[sample].captions) or [""] for sample, _ in cut]
            captions = [texts for texts in captions for _ in range(windows.crops)]
            write_shard(path, tokens, captions, fps=rates[0], origin=origin)
    return total


def _crops(
    shards: ClipShards, windows: Windows, cut: list[tuple[int, int]], size: tuple[int, int]
) -> Iterator[torch.Tensor]:
    """Crops (T, H, W, 3) uint8 of the windows (sample, first frame)."""
    for sample, start in cut:
        frames_THW3 = torch.from_numpy(shards.read(sample, start, windows.num_frames))
        yield fitted(frames_THW3, *size)
        for crop in range(1, windows.crops):
            # By the clip's bytes and the place, so that other clips in the folder change nothing.
            seed = (windows.seed, shards.samples[sample].crc32, start, crop)
            if windows.motion:
                crop_THW3 = moving_crop(frames_THW3, *size, windows.motion, *seed)
            else:
                crop_THW3 = random_scale_crop(frames_THW3, *size, *seed)
            mirrored = windows.mirror and bool(mixed_bits(*seed, 2)[0] >> 63)
            yield crop_THW3.flip(2) if mirrored else crop_THW3


def _encode(tokenizer: VideoTokenizer, crops: Iterator[torch.Tensor]) -> torch.Tensor:
    """Tokens (N, t, h, w) of all crops."""
    device, tokens = next(tokenizer.parameters()).device, []
    while batch := list(itertools.islice(crops, BATCH)):
        tokens.append(tokenizer.encode(torch.stack(batch).to(device)).cpu())
    return torch.cat(tokens)
