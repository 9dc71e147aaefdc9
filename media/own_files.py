"""Which files and folders are clips that reelm wrote, and may therefore be replaced by another one.

is_own_clip(Path("ball.mp4"))       # True for every format that `write_clip` writes
"""

import contextlib
import re
from pathlib import Path

from .clip import unpack_metadata

OUR_NAMES = re.compile(r"frame_\d+\.png|settings\.json")


def is_own_clip(path: Path) -> bool:
    """Return whether a file has the metadata of `write_clip`, or a folder has no other files than its ones."""
    # Readers raise many types of exceptions on files that are broken or of another format.
    with contextlib.suppress(Exception):
        return unpack_metadata(_text(path))[1] is not None
    return False


def _text(path: Path) -> object:
    """Return the metadata of a file or folder as text; None or an exception where it has none."""
    if path.is_dir():
        foreign = [entry for entry in path.iterdir() if not OUR_NAMES.fullmatch(entry.name) or not entry.is_file()]
        return None if foreign else (path / "settings.json").read_text(encoding="utf-8", errors="replace")
    with path.open("rb") as file:
        head = file.read(12)
    is_image = head[:4] == b"GIF8" or (head[:4], head[8:]) == (b"RIFF", b"WEBP")
    return _image_text(path) if is_image else _video_text(path)


def _image_text(path: Path) -> object:
    from PIL import Image

    with Image.open(path, formats=("GIF", "WEBP")) as image:
        return image.info.get("comment") if image.format == "GIF" else image.getexif().get(0x010E)


def _video_text(path: Path) -> object:
    import av

    options = {"format_whitelist": "mov,mp4,matroska,webm"}  # files of other formats are not ours
    with av.open(f"file:{path}", options=options, metadata_errors="replace") as container:
        return {key.lower(): value for key, value in container.metadata.items()}.get("comment")
