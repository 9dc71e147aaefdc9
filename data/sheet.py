"""The contact sheet of prepared clips: a row for each of some samples, five of its frames from left to right.

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
LARGEST = 192  # pixels along a side of a frame; below half of it, a pixel becomes four


def write_sheet(path: Path, folder: Path, shards: dict[int, ShardIndex]) -> None:
    """Write a PNG of at most `ROWS` samples, evenly spaced over all of `shards`: those to train on, if there are any.

    Without a sample there is no file.
    """
    samples = [(number, sample) for number, shard in sorted(shards.items()) for sample in shard.samples]
    samples = [entry for entry in samples if entry[1].split == "train"] or samples
    if not samples:
        path.unlink(missing_ok=True)
        return
    rows = []
    for row in range(min(ROWS, len(samples))):
        number, sample = samples[row * len(samples) // min(ROWS, len(samples))]
        places = [round(column * (sample.frames - 1) / (COLUMNS - 1)) for column in range(COLUMNS)]
        rows.append(torch.stack([torch.from_numpy(read_frames(folder, number, sample, p, 1)[0]) for p in places]))
    clips = torch.stack(rows)
    height, width = clips.shape[2:4]
    scale = min(1.0, LARGEST / max(height, width))
    if scale < 1:
        size = {"height": max(1, round(height * scale)), "width": max(1, round(width * scale))}
        clips = torch.stack([fit_clip(clip, 1.0, fps=1.0, fit="stretch", **size)[0] for clip in clips])
    write_contact_sheet(path, clips, columns=COLUMNS, scale=2 if 2 * max(height, width) <= LARGEST else 1)
