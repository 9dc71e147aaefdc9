"""Encode prepared clips to token shards, the training data of a language model of your own clips.

encode_shards(tokenizer, ClipShards("shards"), Path("tokens"), Windows(num_frames=17, stride=4))

Every tar of clips becomes one file of tokens, so that many machines can share the work and an interrupted run can
continue. Every window is encoded as a clip of its own that begins with the window's first frame. What was held during
the frames of a window is stored beside its tokens (core/controls.py), where it was recorded for any clip.
"""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from ..core.config import to_dict
from ..core.controls import Controller, ControlTrack
from ..core.errors import require
from ..core.json_values import Json
from ..core.plain_values import convert_fields
from ..core.progress import progress
from ..core.protocols import AnyCodec
from .camera import moving_crop
from .clip_shards import ClipShards
from .crops import centre_crop, random_scale_crop
from .loader import hash_bits
from .token_shards import shard_origin, write_shard

BATCH = 16  # crops that are encoded at once


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Options of the windows that are cut out of prepared clips.

    Overlapping windows and several crops of each window turn few clips into more training data.

    Attributes:
        num_frames: The number of frames of a window, that of whole latent frames (see `Compression.grid`).
        stride: The number of frames between the starts of consecutive windows of a clip; num_frames unless given.
        height: The height of a window in pixels; that of the clips unless given.
        width: The width of a window in pixels; that of the clips unless given.
        crops: The number of crops of each window: the largest centred one, and others at random positions, of random
            sizes down to the window's own; all are resized to the size of the window.
        mirror: Mirror half of the random crops; leave it off where captions distinguish left from right.
        motion: The speed in pixels per frame at which random crops move over the picture, as far as its size allows, as
            if the camera moved; a quarter of them play backwards, and a quarter repeat one frame. Leave it at 0 where
            captions describe motion. See camera.py.
        seed: The seed of the positions, the mirroring and the motion.
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
        convert_fields(self)
        counts = {"num_frames": self.num_frames, "stride": self.stride, "crops": self.crops}
        for name, value in counts.items():
            require(value is None or value >= 1, name, "must be at least 1", value)
        for name in ("mirror", "motion"):
            unused = self.crops > 1 or not getattr(self, name)
            require(unused, name, "must be given with more than one crop", self.crops)
        require(0 <= self.motion <= 64, "motion", "must be from 0 to 64", self.motion)
        require(0 <= self.seed < 2**63, "seed", "must be from 0 to 2^63 - 1", self.seed)

    def record(self) -> Json:
        """Return the options that determine the crops, to be stored with the tokens."""
        unused = {"seed"} if self.crops == 1 else set[str]()
        values = asdict(self) | {"stride": self.stride or self.num_frames}
        return {name: value for name, value in values.items() if name not in unused}

    def starts(self, frames: int) -> range:
        """Return the first frame of every window of a clip of `frames` frames."""
        return range(0, frames - self.num_frames + 1, self.stride or self.num_frames)


@dataclass(frozen=True)
class ShardJob:
    """A token shard that is to be made.

    Attributes:
        path: Its path.
        origin: What it is made from, as it is stored in it.
        starts: The windows of its crops: the sample and its first frame.
    """

    path: Path
    origin: str
    starts: list[tuple[int, int]]


class ShardEncoder:
    """Encodes the windows of clips with one tokenizer.

    Attributes:
        windows: The options of the windows.
    """

    def __init__(self, tokenizer: AnyCodec, shards: ClipShards, windows: Windows) -> None:
        """Check that the clips can be cut into these windows.

        Args:
            tokenizer: The tokenizer that encodes the crops.
            shards: The clips, all of one frame rate.
            windows: The options of the windows.

        Raises:
            ReelmError: An argument is out of its range, no sample is as long as a window, frame rates differ, or
                windows are mirrored or moved, or latent frame 0 is several frames, where clips have controls.
        """
        height, whole = shards.height if windows.height is None else windows.height, (shards.height, shards.width)
        size, num_frames = (height, shards.width if windows.width is None else windows.width), windows.num_frames
        for name, length, limit in zip(("height", "width"), size, whole, strict=True):
            require(1 <= length <= limit, name, f"must be from 1 to {limit}, which the clips have", length)
        distinct = windows.crops == 1 or windows.mirror or size != whole
        rule = "must be 1 where windows are as large as the clips, and not mirrored"
        require(distinct, "crops", rule, windows.crops)
        tokenizer.grid(num_frames, *size)
        longest = max((sample.frames for sample in shards.samples), default=0)
        rule = f"must be at most {longest}, the longest sample's frames"
        require(longest >= num_frames, "num_frames", rule, num_frames)
        rates = sorted({sample.fps for sample in shards.samples})
        require(len(rates) == 1, "data", "must have one frame rate (reelm prepare --fps)", rates)
        controller = shards.controller(tokenizer.compression.t)
        rule = "must be one whose first latent frame is one frame, where clips have controls"
        first = tokenizer.compression.first
        require(not controller or first == 1, "tokenizer", rule, f"{first} frames")
        rule = "must be 0 where clips have controls: the picture would move without them"
        require(not controller or not windows.motion, "motion", rule, windows.motion)
        rule = "must be off where clips have controls: left would be right"
        require(not controller or not windows.mirror, "mirror", rule, windows.mirror)
        self.windows = windows
        self._tokenizer, self._shards, self._size, self._fps = tokenizer, shards, size, rates[0]
        self._controller = controller

    def jobs(self, folder: Path, numbers: Sequence[int]) -> list[ShardJob]:
        """Return the token shards of the clip shards with these numbers, without those that have no window."""
        found, wanted = dict[int, list[int]](), set(numbers)
        for sample, number in enumerate(self._shards.numbers):
            if number in wanted:
                found.setdefault(number, []).append(sample)
        jobs = [self._job(folder, number, found.get(number, [])) for number in numbers]
        return [job for job in jobs if job.starts]

    def _job(self, folder: Path, number: int, indexes: list[int]) -> ShardJob:
        samples = [self._shards.samples[index] for index in indexes]
        # The CRC of a clip identifies its bytes, which do not contain its captions.
        clips = [(sample.crc32, sample.captions) for sample in samples]
        origin = f"tokenizer {self._tokenizer.tokens_id}, {self.windows.record()}, clips {clips}"
        if self._controller:
            origin += f", controls {_digest(self._controller, [sample.controls for sample in samples])}"
        name = f"clips-{self._shards.split}-{number:05d}-{self.windows.num_frames}.safetensors"
        starts = [
            (index, start)
            for index, sample in zip(indexes, samples, strict=True)
            for start in self.windows.starts(sample.frames)
        ]
        return ShardJob(folder / name, origin, starts)

    def __call__(self, job: ShardJob) -> None:
        """Make a token shard."""
        self.write(job, self.crops(job.starts))

    @torch.no_grad()
    def write(self, job: ShardJob, crops: Iterable[torch.Tensor]) -> None:
        """Make a token shard of its crops."""
        tokens = _encode(self._tokenizer, iter(crops))
        captions = [list(self._shards.samples[sample].captions) or [""] for sample, _ in job.starts]
        captions = [texts for texts in captions for _ in range(self.windows.crops)]
        write_shard(
            job.path, tokens, captions, fps=self._fps, origin=job.origin, controls=self._control_tokens(job.starts),
            controller=self._controller,
        )  # fmt: skip

    def crops(self, starts: Iterable[tuple[int, int]]) -> Iterator[torch.Tensor]:
        """Yield the crops (T, H, W, 3) uint8 of the windows that begin at `starts`: (sample, first frame)."""
        windows = self.windows
        for sample, start in starts:
            frames_THW3 = torch.from_numpy(self._shards.read(sample, start, windows.num_frames))
            yield centre_crop(frames_THW3, *self._size)
            for crop in range(1, windows.crops):
                # The seed depends on the bytes of this clip alone: other clips in the folder change nothing.
                seed = (windows.seed, self._shards.samples[sample].crc32, start, crop)
                if windows.motion:
                    crop_THW3 = moving_crop(frames_THW3, *self._size, windows.motion, *seed)
                else:
                    crop_THW3 = random_scale_crop(frames_THW3, *self._size, *seed)
                mirrored = windows.mirror and bool(hash_bits(*seed, 2)[0] >> 63)
                yield crop_THW3.flip(2) if mirrored else crop_THW3

    def _control_tokens(self, starts: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """Return the control tokens (N, t, pictures) of the crops of the windows that begin at `starts`, by segment.

        They are the same for all crops of a window, and empty where nothing was recorded. What is held during the last
        frame of a window shows after it.
        """
        count, found = self.windows.num_frames - 1, []
        for sample, start in starts:
            track = self._shards.samples[sample].controls or ControlTrack((frozenset(),) * (start + count))
            found += [self._controller.tokens(track[start : start + count], first=True)] * self.windows.crops
        return {
            segment.name: torch.stack([tokens[segment.name] for tokens in found])
            for segment in self._controller.segments
        }


def encode_shards(
    tokenizer: AnyCodec, shards: ClipShards, folder: Path, windows: Windows | None = None, *, rank: int = 0,
    world_size: int = 1, run: Callable[[list[ShardJob]], Iterable[object]] | None = None,
) -> int:  # fmt: skip
    """Encode the windows of all samples, and return the number of crops in the token shards of this rank.

    Existing token shards of the same tokenizer, clips and windows are kept.

    Args:
        tokenizer: The tokenizer that encodes the crops.
        shards: The clips, all of one frame rate.
        folder: The folder of the token shards.
        windows: The options of the windows; the default ones unless given.
        rank: The index of this process, from 0.
        world_size: The number of processes that share the work.
        run: What makes the token shards that are missing, and yields something when one is done; this process does
            unless given.

    Raises:
        ReelmError: An argument is out of its range, or see `ShardEncoder`.
        ClipError: A shard is damaged.
    """
    require(world_size >= 1, "world_size", "must be at least 1", world_size)
    require(0 <= rank < world_size, "rank", f"must be from 0 to {world_size - 1}", rank)
    encoder = ShardEncoder(tokenizer, shards, windows or Windows())
    folder.mkdir(parents=True, exist_ok=True)
    jobs = encoder.jobs(folder, sorted(set(shards.numbers))[rank::world_size])
    missing = [job for job in jobs if shard_origin(job.path) != job.origin]
    label = f"encoding windows of {encoder.windows.num_frames} frames"
    if run is None:
        _encode_here(encoder, missing, label)
    else:
        for _ in progress(run(missing), label, unit="shard", total=len(missing)):
            pass
    return sum(len(job.starts) for job in jobs) * encoder.windows.crops


def _encode_here(encoder: ShardEncoder, jobs: list[ShardJob], label: str) -> None:
    each, every = encoder.windows.crops, [start for job in jobs for start in job.starts]
    crops = progress(encoder.crops(every), label, unit="window", total=len(every) * each)
    with contextlib.closing(crops):
        for job in jobs:
            encoder.write(job, itertools.islice(crops, len(job.starts) * each))


def _digest(controller: Controller, tracks: list[ControlTrack | None]) -> str:
    """Return a hash of what the control tokens of samples are made from."""
    told = [None if track is None else (track.written, dict(track.axes)) for track in tracks]
    return hashlib.sha256(json.dumps([to_dict(controller), told]).encode()).hexdigest()


def _encode(tokenizer: AnyCodec, crops: Iterator[torch.Tensor]) -> torch.Tensor:
    """Return the tokens (N, t, h, w) of all crops."""
    device, tokens = tokenizer.device, []
    while batch := list(itertools.islice(crops, BATCH)):
        tokens.append(tokenizer.encode_chunk(torch.stack(batch).to(device), None)[0].cpu())
    return torch.cat(tokens)
