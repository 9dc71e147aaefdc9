"""Encode clips to token shards, given the paths of their folders, for `reelm render` and `reelm encode`.

render_tokens(Path("runs/tokenizer"), Path("runs/tokens"), 40_000, num_frames=17, seed=1)
encode_clips(Path("shards"), Path("runs/tokenizer"), Path("tokens"), windows=Windows(num_frames=17, stride=4))

These functions load the tokenizer and call rendered.py and encode.py.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core.folders import check_folder, mark_folder
from ..core.ray_pool import RayOptions, made_file, run_on_ray
from ..tokenizer.codec_files import load_tokenizer
from .clip_shards import ClipShards
from .encode import ShardEncoder, ShardJob, Windows, encode_shards
from .rendered import encode_world

WINDOWS = Windows()


@dataclass(frozen=True)
class TokenReport:
    """The size of a data set of token shards.

    Attributes:
        folder: The folder of the shards, *.safetensors.
        clips: The number of clips, or of crops of clips; after `encode_clips`, of this rank alone.
        num_frames: The number of frames of each clip.
    """

    folder: Path
    clips: int
    num_frames: int


def render_tokens(
    tokenizer: Path,
    out: Path,
    clips: int,
    *,
    num_frames: int = 17,
    seed: int = 1,
    height: int = 64,
    width: int = 64,
    device: str = "auto",
) -> TokenReport:
    """Render captioned clips and encode them to token shards, the training data of the bundled language model.

    Args:
        tokenizer: The folder of a trained tokenizer.
        out: The folder of the token shards; existing ones are kept.
        clips: The number of clips.
        num_frames: The number of frames of a clip, that of whole latent frames (see `Compression.grid`).
        seed: The seed of the clips.
        height: The height of a clip in pixels.
        width: The width of a clip in pixels.
        device: The device to compute on: auto, cpu or cuda[:n].

    Raises:
        ReelmError: The tokenizer cannot be loaded, an argument is out of its range, or `out` holds other files.
    """
    check_folder(out, "token shards")
    model = load_tokenizer(tokenizer, device=device)
    mark_folder(out, "token shards")
    encode_world(model, out, clips=clips, num_frames=num_frames, seed=seed, height=height, width=width)
    return TokenReport(out, clips, num_frames)


def encode_clips(
    shards: Path,
    tokenizer: Path,
    out: Path,
    *,
    split: str = "train",
    rank: int = 0,
    world_size: int = 1,
    device: str = "auto",
    windows: Windows = WINDOWS,
    ray: RayOptions | None = None,
) -> TokenReport:
    """Encode prepared clips to token shards, the training data of a language model.

    Args:
        shards: The folder of the clip shards, made by `prepare`.
        tokenizer: The folder of a trained tokenizer.
        out: The folder of the token shards; existing ones are kept.
        split: The split to encode: train or held-out.
        rank: The index of this machine, from 0.
        world_size: The number of machines that share the work, each with the same folders.
        device: The device to compute on: auto, cpu or cuda[:n].
        windows: The options of the windows that are cut out of the clips.
        ray: Where the shards are encoded with Ray, by processes with devices of the same kind; this process encodes
            them unless given.

    Raises:
        ReelmError: The tokenizer cannot be loaded, an argument is out of its range, no sample is as long as a window,
            or `out` holds other files; or Ray cannot be used.
        ClipError: A shard is missing or damaged.
    """
    check_folder(out, "token shards")
    model = load_tokenizer(tokenizer, device=device)
    clips = ClipShards(shards, split)
    mark_folder(out, "token shards")
    run = None
    if ray is not None:
        kind = model.device.type
        make = functools.partial(_load_encoder, shards.resolve(), split, tokenizer.resolve(), kind, windows)
        run = functools.partial(_encode_on_ray, make, ray, on_gpu=kind == "cuda")
    count = encode_shards(model, clips, out.resolve(), windows, rank=rank, world_size=world_size, run=run)
    return TokenReport(out, count, windows.num_frames)


def _load_encoder(shards: Path, split: str, tokenizer: Path, device: str, windows: Windows) -> ShardEncoder:
    return ShardEncoder(load_tokenizer(tokenizer, device=device), ClipShards(shards, split), windows)


def _encode_on_ray(
    make: Callable[[], ShardEncoder], ray: RayOptions, jobs: list[ShardJob], *, on_gpu: bool
) -> Iterator[int]:
    """Yield the number of each job when its token shard is written."""
    for number, result in run_on_ray(make, jobs, ray, on_gpu=on_gpu):
        made_file(jobs[number].path, result)
        yield number
