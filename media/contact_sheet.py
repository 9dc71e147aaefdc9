"""Contact sheets: frames of several clips in one PNG for visual inspection.

write_contact_sheet("sheet.png", clips_BTHW3)       # one row of frames for each clip
"""

from pathlib import Path

import torch

from ..core.files import atomic_path


def write_contact_sheet(path: Path, clips_BTHW3: torch.Tensor, columns: int = 5, scale: int = 2) -> None:
    """Write a PNG with a row for each clip and `columns` of its frames, evenly spaced from the first to the last.

    Args:
        path: The file to write.
        clips_BTHW3: The clips, uint8.
        columns: The number of frames of each clip.
        scale: The width and height on the sheet of one pixel of a clip.
    """
    from PIL import Image

    frames = clips_BTHW3.shape[1]
    chosen = [round(index * (frames - 1) / max(columns - 1, 1)) for index in range(columns)]
    sheet = clips_BTHW3[:, chosen].permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)  # (B * H, columns * W, 3)
    image = Image.fromarray(sheet.cpu().numpy())
    with atomic_path(path) as temporary:
        image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(temporary)
