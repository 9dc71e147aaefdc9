"""The data of tokenizer training and its evaluation: random crops of prepared clips, and their held-out ends.

crops = CropLoader(ClipShards("shards"), batch_size=8, num_frames=9, height=64, width=64, seed=0)
frames_BTHW3 = crops.batch(step)                        # uint8; determined by (seed, step) alone
ends = held_out_clips(ClipShards("shards", split="held-out"), temporal=4)
"""

import torch

from ..core.errors import require
from ..media.fitting import fit_clip
from .clip_shards import ClipShards
from .loader import ClipLoader, hash_bits

MAX_HELD_OUT = 16
WORKERS = 1  # threads that read ahead; one suffices because a training step takes longer than reading a batch


class CropLoader:
    """A loader of batches of random crops: windows of clips, each cropped at its own position, half of them mirrored.

    A still image is a window that repeats it.

    Args:
        shards: The clips to read.
        batch_size: The number of crops per step.
        num_frames: The number of frames per crop.
        height: The height of a crop in pixels.
        width: The width of a crop in pixels.
        seed: The seed of the order, the crop positions and the mirroring.
        rank: The index of this process, which reads its part of each batch.
        world_size: The number of processes.

    Raises:
        ReelmError: A crop is larger or longer than the clips.
    """

    def __init__(
        self, shards: ClipShards, batch_size: int, num_frames: int, *, height: int, width: int, seed: int,
        rank: int = 0, world_size: int = 1,
    ) -> None:  # fmt: skip
        for name, size, limit in (("height", height, shards.height), ("width", width, shards.width)):
            require(1 <= size <= limit, name, f"must be from 1 to {limit}, which the clips have", size)
        self._loader = ClipLoader(
            shards, batch_size, num_frames, seed, rank=rank, world_size=world_size, workers=WORKERS, flip=True,
            stills=True,
        )  # fmt: skip
        self._size, self._seed, self._rank, self._world_size = (height, width), seed, rank, world_size

    def batch(self, step: int) -> torch.Tensor:
        """Return this process's crops (B, T, H, W, 3) uint8 of a step; they do not depend on what was read before."""
        frames_BTHW3 = self._loader.batch(step).frames_BTHW3
        return torch.stack([
            random_crop(clip_THW3, *self._size, self._seed, 3, step, index * self._world_size + self._rank)
            for index, clip_THW3 in enumerate(frames_BTHW3)
        ])  # fmt: skip

    def name(self, step: int) -> str:
        """Return the clips of a step, each with the first frame of its crop."""
        return ", ".join(f"{source} from frame {frame} on" for source, frame in self._loader.sources(step))

    def notes(self) -> list[str]:
        """Return what the user should know of clips that are left out."""
        left_out, frames = self._loader.left_out, self._loader.num_frames
        if not left_out:
            return []
        return [f"{left_out} of {len(self._loader.shards)} samples are shorter than the {frames} frames of a crop "
                "(--num-frames), and are left out"]  # fmt: skip

    def close(self) -> None:
        """Stop the thread that reads ahead; `batch` must not be called afterwards."""
        self._loader.close()


def centre_crop(frames_THW3: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return the largest centred crop of the aspect ratio, resized to (T, height, width, 3).

    A clip that is to be continued is fitted in the same way.
    """
    return fit_clip(frames_THW3, 1.0, fps=1.0, height=height, width=width)[0]


def random_crop(frames_THW3: torch.Tensor, height: int, width: int, *seed: int) -> torch.Tensor:
    """Return a crop (T, height, width, 3) at a position that the seeds determine; the frames must be large enough."""
    offsets = (frames_THW3.shape[1] - height + 1, frames_THW3.shape[2] - width + 1)
    top, left = (int(hash_bits(*seed, axis)[0]) % count for axis, count in enumerate(offsets))
    return frames_THW3[:, top : top + height, left : left + width]


def random_scale_crop(frames_THW3: torch.Tensor, height: int, width: int, *seed: int) -> torch.Tensor:
    """Return a random crop of a random size, resized to (T, height, width, 3).

    Before it is resized the crop is larger than that by a factor between 1 and the largest that fits the frames.
    """
    max_scale = min(frames_THW3.shape[1] / height, frames_THW3.shape[2] / width)
    scale = max_scale ** (int(hash_bits(*seed, 3)[0]) / 2**64)
    larger = (min(round(scale * height), frames_THW3.shape[1]), min(round(scale * width), frames_THW3.shape[2]))
    return centre_crop(random_crop(frames_THW3, *larger, *seed), height, width)


def held_out_clips(shards: ClipShards, temporal: int) -> list[tuple[str, torch.Tensor]]:
    """Return (source, frames (T, H, W, 3) uint8) of at most `MAX_HELD_OUT` samples, evenly spaced over all of them.

    Each clip is the end of its sample, the longest of 1 + n * `temporal` frames, so that no clip needs padding.
    """
    clips, count = [], min(MAX_HELD_OUT, len(shards))
    for position in range(count):
        index = position * len(shards) // count
        sample = shards.samples[index]
        extra = (sample.frames - 1) % temporal
        frames_THW3 = torch.from_numpy(shards.read(index, extra, sample.frames - extra))
        clips.append((sample.source, frames_THW3))
    return clips
