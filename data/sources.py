"""Find the clips of a folder, and what lies beside them, the first step of `reelm prepare`.

found = find_sources(Path("my_clips"), leave_out=Path("my_clips/shards"))
captions = read_captions(found.sources[0])

The captions of a clip are in a file of the same name in the same folder: `name.txt` is one caption, and `name.json` has
one or a list of them under "caption". If both exist, the JSON file is used. What was held while the clip was recorded
is in `name.jsonl` or `name.csv` (control_files.py).
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import ClipError
from ..core.folders import kind_of
from ..media.picture_folder import IMAGE_SUFFIXES, is_sequence

VIDEOS = (
    ".mp4 .m4v .mov .qt .3gp .3g2 .mkv .webm .avi .divx .mpg .mpeg .mpe .m1v .m2v .vob .ts .mts .m2ts .m2t .ogv .ogg "
    ".flv .f4v .wmv .asf .h264 .264 .hevc .h265 .265 .ivf .nut .mxf .y4m .yuv"
)
SUFFIXES = IMAGE_SUFFIXES | frozenset(VIDEOS.split())
CAPTIONS = (".json", ".txt")
CONTROLS = (".csv", ".jsonl")
MAX_CAPTION_BYTES = 2**20


@dataclass(frozen=True)
class Source:
    """A clip to prepare.

    Attributes:
        name: The path relative to the searched folder, with slashes; bytes that are not UTF-8 are escaped.
        path: The path of the file, or of a folder of pictures that is one clip.
    """

    name: str
    path: Path

    @property
    def captions_path(self) -> Path | None:
        """The file of the clip's captions, or None if there is none."""
        return next(iter(self._beside(CAPTIONS)), None)

    @property
    def controls_paths(self) -> list[Path]:
        """The files of what was held while the clip was recorded; more than one is a mistake."""
        return self._beside(CONTROLS)

    def _beside(self, suffixes: tuple[str, ...]) -> list[Path]:
        paths = (self.path.with_name(self.path.stem + suffix) for suffix in suffixes)
        return [path for path in paths if os.path.lexists(path) and path != self.path]

    def stamp(self) -> list[str | int | None]:
        """Return values that change when the clip, its captions or its controls change.

        They are the name, then the size and the modification time of the clip, of its captions, and of its controls if
        there are any.
        """
        stamp: list[str | int | None] = [self.name]
        for path in (self.path, self.captions_path, *self.controls_paths):
            try:
                status = None if path is None else path.stat()
            except OSError:
                status = None
            stamp += [None, None] if status is None else [status.st_size, status.st_mtime_ns]
        return stamp


@dataclass(frozen=True)
class FoundClips:
    """What lies in a folder of clips; every name is relative to it, and all are sorted.

    Attributes:
        sources: The clips, and folders that cannot be listed, so that they are reported.
        ignored: The names of files that are neither clips by their suffix nor captions or controls of a clip.
        made_here: The names of folders that reelm made, such as a training run: their pictures are not clips.
    """

    sources: list[Source]
    ignored: list[str]
    made_here: list[str]


def find_sources(folder: Path, leave_out: Path | None = None) -> FoundClips:
    """Find every video, gif and image under `folder`, except hidden files and folders and folders that reelm made.

    Args:
        folder: The folder that is searched with all its subfolders; links to folders are not followed.
        leave_out: A subfolder that is not searched, such as that of the shards.
    """
    found: list[Path] = []
    others: list[Path] = []
    refused: list[str] = []
    made_here: list[Path] = []
    skipped = None if leave_out is None else leave_out.resolve()
    for directory, folders, files in os.walk(folder, onerror=lambda error: refused.append(str(error.filename))):
        here = Path(directory)
        if "settings.json" in files and any(name.startswith("frame_") and name.endswith(".png") for name in files):
            found.append(here)
            folders.clear()
            continue
        folders[:] = [name for name in folders if name[0] != "." and (here / name).resolve() != skipped]
        made_here += [here / name for name in folders if kind_of(here / name) is not None]
        folders[:] = [name for name in folders if here / name not in made_here]
        frames = _find_frames(here, files)
        found += [here] if frames else []
        for name in files:
            if name[0] != "." and name not in frames:
                (found if Path(name).suffix.lower() in SUFFIXES else others).append(here / name)
    found += [Path(name) for name in refused]
    sources = sorted((Source(_name(path, folder), path) for path in found), key=lambda source: source.name)
    used = {path for source in sources for path in (source.captions_path, *source.controls_paths)}
    ignored = sorted(_name(path, folder) for path in others if path not in used)
    return FoundClips(sources, ignored, sorted(_name(path, folder) for path in made_here))


def _find_frames(folder: Path, files: list[str]) -> set[str]:
    """Return the pictures of a folder that is a clip: frames in sequence, with no other clips or captions between."""
    clips = {name for name in files if name[0] != "." and Path(name).suffix.lower() in SUFFIXES}
    captioned = {Path(name).stem for name in files if Path(name).suffix in CAPTIONS}
    stills = [folder / name for name in clips if Path(name).suffix.lower() in IMAGE_SUFFIXES]
    alone = len(stills) == len(clips) and not any(still.stem in captioned for still in stills)
    return clips if alone and is_sequence(stills) else set()


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix().encode("utf-8", "backslashreplace").decode()


def read_captions(source: Source) -> tuple[str, ...]:
    """Return the captions of a clip, each run of white space replaced by one space; none if no file has any.

    Raises:
        ClipError: The file of captions is unreadable, not UTF-8, too large, or JSON without captions.
    """
    path = source.captions_path
    if path is None:
        return ()
    text = read_text(path, "caption", MAX_CAPTION_BYTES)
    try:
        values = json.loads(text) if path.suffix == ".json" else {"caption": text}
    except (ValueError, RecursionError) as error:
        raise ClipError(f"caption: must be JSON, got something else in {path.name!r}") from error
    captions = values.get("caption") if isinstance(values, dict) else None
    captions = [captions] if isinstance(captions, str) else captions
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise ClipError(f'caption: must be a string or a list of them under "caption", got none in {path.name!r}')
    return tuple(line for line in (" ".join(caption.split()) for caption in captions) if line)


def read_text(path: Path, what: str, most_bytes: int) -> str:
    """Return the text of a small file beside a clip.

    Args:
        path: The file.
        what: What it holds, for error messages.
        most_bytes: The largest size.

    Raises:
        ClipError: The file is unreadable, too large, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise ClipError(f"{what}: must be a readable file, got {path.name!r} ({error.strerror})") from error
    if len(data) > most_bytes:
        raise ClipError(f"{what}: must have at most {most_bytes} bytes, got more in {path.name!r}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ClipError(f"{what}: must be UTF-8, got another encoding in {path.name!r}") from error
