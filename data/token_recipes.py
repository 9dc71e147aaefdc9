"""Clips to token shards by the names of folders: what `reelm render` and `reelm encode` call.

render_tokens(Path("runs/tokenizer"), Path("runs/tokens"), 40_000, num_frames=17, seed=1)
encode_clips(Path("shards"), Path("runs/tokenizer"), Path("tokens"), windows=Windows(num_frames=17, stride=4))

The work is that of rendered.py and encode.py, which are given a loaded tokenizer.
"""

from dataclasses import dataclass
from pathlib import Path

from ..tokenizer.video_tokenizer import load_tokenizer
from .clip_shards import ClipShards
from .encode import Windows, encode_shards
from .rendered import encode_world

WINDOWS = Windows()


@dataclass(frozen=True)
class TokenReport:
    """What lies in a folder of token shards.

    Attributes:
        folder: of the shards, *.safetensors.
        clips: how many clips or crops of clips there are; of `encode_clips` those of this rank.
        num_frames: frames of each.
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
    """Render captioned clips of the world and encode them to token shards, the language model's data.

    Args:
        tokenizer: the folder of a tokenizer's training.
        out: the folder of shards; those that are there already are kept.
        clips: how many.
        num_frames: frames of a clip, 1 + a multiple of the tokenizer's `temporal`.
        seed: of the clips.
        height: of a clip in pixels.
        width: of a clip in pixels.
        device: auto, cpu or cuda[:n].

    Raises:
        ReelmError: the tokenizer cannot be loaded, or an argument is out of its range.
    """
    model = load_tokenizer(tokenizer, device=device)
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
) -> TokenReport:
    """Encode prepared clips to token shards, the language model's data.

    Args:
        shards: the folder that `prepare` made.
        tokenizer: the folder of a tokenizer's training.
        out: the folder of token shards; those that are there already are kept.
        split: train, or held-out.
        rank: of this machine, from 0.
        world_size: machines that share the work, each with the same folders.
        device: auto, cpu or cuda[:n].
        windows: what is cut out of the clips.

    Raises:
        ReelmError: the tokenizer cannot be loaded, an argument is out of its range, or no sample is as long as a
            window.
        ClipError: a shard is missing or damaged.
    """
    model = load_tokenizer(tokenizer, device=device)
    count = encode_shards(model, ClipShards(shards, split), out, windows, rank=rank, world_size=world_size)
    return TokenReport(out, count, windows.num_frames)
