"""Write the contact sheet of prepared clips: one row per sample, with five of its frames from left to right.

write_sheet(Path("shards/samples.png"), Path("shards"), {0: read_index(Path("shards"), 0)})
"""

from pathlib import Path

import torch

from ..media.contact_sheet import write_contact_sheet
from ..media.fitting import fit_clip
from .clip_shards import read_frames
from .shard_files import ShardIndex

ROWS = 12
COLUMNS = 5
MAX_SIDE = 192  # pixels; larger frames are scaled down, and those of at most half this side are scaled up by 2


def write_sheet(path: Path, folder: Path, shards: dict[int, ShardIndex]) -> None:
    """Write a PNG with at most `ROWS` samples, evenly spaced over the training samples of all shards.

    Held-out samples are shown only if there are no training samples. Without any sample an existing file is removed.

    Args:
        path: The path of the PNG.
        folder: The folder of the shards.
        shards: The indexes of the shards by their numbers.
    """
    samples = [(number, sample) for number, shard in sorted(shards.items()) for sample in shard.samples]
    samples = [entry for entry in samples if entry[1].split == "train"] or samples
    if not samples:
        path.unlink(missing_ok=True)
        return
    rows = []
    for row in range(min(ROWS, len(samples))):
        number, sample = samples[row * len(samples) // min(ROWS, len(samples))]
        frames = [round(column * (sample.frames - 1) / (COLUMNS - 1)) for column in range(COLUMNS)]
        rows.append(torch.stack([torch.from_numpy(read_frames(folder, number, sample, f, 1)[0]) for f in frames]))
    clips = torch.stack(rows)
    height, width = clips.shape[2:4]
    scale = min(1.0, MAX_SIDE / max(height, width))
    if scale < 1:
        size = {"height": max(1, round(height * scale)), "width": max(1, round(width * scale))}
        clips = torch.stack([fit_clip(clip, 1.0, fps=1.0, fit="stretch", **size)[0] for clip in clips])
    write_contact_sheet(path, clips, columns=COLUMNS, scale=2 if 2 * max(height, width) <= MAX_SIDE else 1)
