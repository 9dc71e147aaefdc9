"""Contact sheets: clips as one PNG, to be looked at.

write_contact_sheet("sheet.png", clips_BTHW3)       # a row for each clip, frames from left to right
"""

from pathlib import Path

import torch

from ..core.files import atomic_path


def write_contact_sheet(path: Path, clips_BTHW3: torch.Tensor, columns: int = 5, scale: int = 2) -> None:
    """Write a PNG with a row for each clip and `columns` of its frames, evenly spaced from the first to the last.

    Args:
        path: the file to write.
        clips_BTHW3: uint8.
        columns: frames of each clip.
        scale: pixels of the sheet along a side of each pixel of a clip.
    """
    from PIL import Image

    frames = clips_BTHW3.shape[1]
    chosen = [round(index * (frames - 1) / max(columns - 1, 1)) for index in range(columns)]
    sheet = clips_BTHW3[:, chosen].permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)  # (B * H, columns * W, 3)
    image = Image.fromarray(sheet.cpu().numpy())
    with atomic_path(path) as temporary:
        image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(temporary)
