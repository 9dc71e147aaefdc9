"""What a tokenizer is trained on and judged by: random crops of prepared clips, and the ends that were held out.

crops = CropLoader(ClipShards("shards"), batch_size=8, num_frames=9, height=64, width=64, seed=0)
frames_BTHW3 = crops.batch(step)                        # uint8; follows from (seed, step) alone
ends = held_out_clips(ClipShards("shards", split="held-out"), temporal=4)
"""

import torch

from ..core.errors import require
from ..media.fitting import fit_clip
from .clip_shards import ClipShards
from .loader import ClipLoader, mixed_bits

MOST_HELD_OUT = 16
WORKERS = 1  # threads that read ahead; a training's step takes longer than its batch


class CropLoader:
    """Batches of windows, each cut out of its clip at a place of its own, half of them mirrored.

    Args:
        shards: what to read.
        batch_size: crops of a step.
        num_frames: frames of a crop.
        height: of a crop in pixels.
        width: of a crop in pixels.
        seed: of the order, the places and the mirroring.

    Raises:
        ReelmError: a crop is larger or longer than the clips.
    """

    def __init__(
        self, shards: ClipShards, batch_size: int, num_frames: int, *, height: int, width: int, seed: int
    ) -> None:
        for name, size, most in (("height", height, shards.height), ("width", width, shards.width)):
            require(1 <= size <= most, name, f"must be from 1 to {most}, which the clips have", size)
        self._loader = ClipLoader(shards, batch_size, num_frames, seed, workers=WORKERS, flip=True)
        self._size, self._seed = (height, width), seed

    def batch(self, step: int) -> torch.Tensor:
        """Crops (B, T, H, W, 3) uint8, whatever was read before."""
        frames_BTHW3 = self._loader.batch(step).frames_BTHW3
        return torch.stack([
            random_crop(clip_THW3, *self._size, self._seed, 3, step, place)
            for place, clip_THW3 in enumerate(frames_BTHW3)
        ])  # fmt: skip

    def close(self) -> None:
        """End the thread that reads ahead; `batch` may not be called again."""
        self._loader.close()


def fitted(frames_THW3: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(T, height, width, 3): the largest crop of this shape from the middle, made as large, as a clip is continued."""
    return fit_clip(frames_THW3, 1.0, fps=1.0, height=height, width=width)[0]


def random_crop(frames_THW3: torch.Tensor, height: int, width: int, *seed: int) -> torch.Tensor:
    """(T, height, width, 3) from a place that follows from the seeds, of frames that are at least as large."""
    rooms = (frames_THW3.shape[1] - height + 1, frames_THW3.shape[2] - width + 1)
    top, left = (int(mixed_bits(*seed, axis)[0]) % room for axis, room in enumerate(rooms))
    return frames_THW3[:, top : top + height, left : left + width]


def random_scale_crop(frames_THW3: torch.Tensor, height: int, width: int, *seed: int) -> torch.Tensor:
    """As `random_crop`, of a crop that is larger by a factor from 1 to the largest that there is room for, and made
    smaller."""
    most = min(frames_THW3.shape[1] / height, frames_THW3.shape[2] / width)
    scale = most ** (int(mixed_bits(*seed, 3)[0]) / 2**64)
    larger = (min(round(scale * height), frames_THW3.shape[1]), min(round(scale * width), frames_THW3.shape[2]))
    return fitted(random_crop(frames_THW3, *larger, *seed), height, width)


def held_out_clips(shards: ClipShards, temporal: int) -> list[tuple[str, torch.Tensor]]:
    """(source, frames (T, H, W, 3) uint8) of at most `MOST_HELD_OUT` samples, evenly spaced over all of them.

    Of each the last 1 + n * `temporal` frames are taken, so that none has to be filled up.
    """
    clips, count = [], min(MOST_HELD_OUT, len(shards))
    for place in range(count):
        number = place * len(shards) // count
        sample = shards.samples[number]
        extra = (sample.frames - 1) % temporal
        frames_THW3 = torch.from_numpy(shards.read(number, extra, sample.frames - extra))
        clips.append((sample.source, frames_THW3))
    return clips
