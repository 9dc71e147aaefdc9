"""Contact sheets: frames of several clips in one PNG for visual inspection.

write_contact_sheet("sheet.png", clips_BTHW3)       # one row of frames for each clip
"""

import contextlib
from pathlib import Path

import torch

from ..core.files import atomic_path

_SOFTWARE = "reelm contact sheet"  # the text in a PNG by which a sheet is recognised


def is_own_sheet(path: Path) -> bool:
    """Return whether a file is a contact sheet that reelm wrote."""
    from PIL import Image

    with contextlib.suppress(OSError, ValueError, SyntaxError), Image.open(path, formats=("PNG",)) as image:
        return image.info.get("Software") == _SOFTWARE
    return False


def write_contact_sheet(path: Path, clips_BTHW3: torch.Tensor, columns: int = 5, scale: int = 2) -> None:
    """Write a PNG with a row for each clip and `columns` of its frames, evenly spaced from the first to the last.

    Args:
        path: The file to write.
        clips_BTHW3: The clips, uint8.
        columns: The number of frames of each clip.
        scale: The width and height on the sheet of one pixel of a clip.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    frames = clips_BTHW3.shape[1]
    chosen = [round(index * (frames - 1) / max(columns - 1, 1)) for index in range(columns)]
    sheet = clips_BTHW3[:, chosen].permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)  # (B * H, columns * W, 3)
    image, text = Image.fromarray(sheet.cpu().numpy()), PngInfo()
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    text.add_text("Software", _SOFTWARE)
    with atomic_path(path) as temporary:
        image.save(temporary, pnginfo=text)
