"""Clip shards on disk: mp4s in a plain tar, and beside it an index that says where each of them lies.

    write_shard(folder, 3, samples, paths, fingerprint=..., skipped=[])     # clips-00003.tar, then clips-00003.json
    shard = read_index(folder, 3)
    data = read_sample(folder, 3, shard.samples[0])                         # the mp4's bytes, checked

A folder holds `shards.json` (how many shards there are to be, and the options that made them) and the shards. The index
is written last: a tar without one is no shard yet.
"""

import dataclasses
import io
import json
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import ClipError
from ..core.files import atomic_path, atomic_write

FORMAT = 1
SPLITS = ("train", "held-out")


@dataclass(frozen=True, slots=True)
class Sample:
    """One stretch of a clip, as it lies in a shard.

    Attributes:
        source: the name of the file that it comes from.
        split: train or held-out.
        first_frame: its place in the source, in frames at its own `fps`.
        frames: how many it has.
        fps: frames per second.
        height: in pixels.
        width: in pixels.
        captions: of the source; any of them tells it.
        offset: of the mp4's first byte in the tar.
        size: of the mp4 in bytes.
        crc32: of the mp4's bytes.
    """

    source: str
    split: str
    first_frame: int
    frames: int
    fps: float
    height: int
    width: int
    captions: tuple[str, ...]
    offset: int = 0
    size: int = 0
    crc32: int = 0


@dataclass(frozen=True)
class ShardIndex:
    """What a shard's index says.

    Attributes:
        fingerprint: of the sources and options that it was made from.
        tar_bytes: the size of the tar.
        samples: in the order of the sources and of time.
        skipped: (file, reason) of the sources that could not be used.
    """

    fingerprint: str
    tar_bytes: int
    samples: list[Sample]
    skipped: list[tuple[str, str]]


def tar_path(folder: Path, number: int) -> Path:
    """The tar of a shard; its index has the same name and ends in .json."""
    return folder / f"clips-{number:05d}.tar"


def write_shard(
    folder: Path,
    number: int,
    samples: list[Sample],
    paths: list[Path],
    *,
    fingerprint: str,
    skipped: list[tuple[str, str]],
) -> ShardIndex:
    """Put the mp4s at `paths` into a tar and index them: the samples but for their offset, size and crc32."""
    path, placed = tar_path(folder, number), []
    with atomic_path(path) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for place, (sample, source) in enumerate(zip(samples, paths, strict=True)):
                data = source.read_bytes()
                info = tarfile.TarInfo(f"{number:05d}-{place:06d}.mp4")
                info.size = len(data)
                offset = tar.offset + tarfile.BLOCKSIZE  # behind the header, which fills one block
                tar.addfile(info, io.BytesIO(data))
                placed.append(dataclasses.replace(sample, offset=offset, size=len(data), crc32=zlib.crc32(data)))
        size = temporary.stat().st_size
    index = ShardIndex(fingerprint, size, placed, skipped)
    atomic_write(
        path.with_suffix(".json"), json.dumps({"format": FORMAT, **dataclasses.asdict(index)}, indent=1) + "\n"
    )
    return index


def read_index(folder: Path, number: int) -> ShardIndex:
    """The index of a shard whose tar is there, in the size that it should have.

    Raises:
        ClipError: it is missing or damaged.
    """
    path = tar_path(folder, number)
    name = path.with_suffix(".json").name
    values = read_json(path.with_suffix(".json"))
    try:
        samples = [Sample(**{**entry, "captions": tuple(entry["captions"])}) for entry in values["samples"]]
        skipped = [(str(file), str(reason)) for file, reason in values["skipped"]]
        index = ShardIndex(values["fingerprint"], values["tar_bytes"], samples, skipped)
    except (KeyError, TypeError, ValueError) as error:
        raise ClipError(
            f"data: {name} must be the index of a clip shard, got {type(error).__name__}: {error}"
        ) from error
    if not all(_is_sane(sample, index.tar_bytes) for sample in samples):
        raise ClipError(f"data: {name} must have samples that lie in their tar, got another")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ClipError(f"data: {path.name} must lie beside its index, got {error.strerror}") from error
    if size != index.tar_bytes:
        raise ClipError(f"data: {path.name} must have {index.tar_bytes} bytes, got {size}")
    return index


def _is_sane(sample: Sample, tar_bytes: Any) -> bool:
    counts = (sample.frames, sample.height, sample.width, sample.size)
    places = (tar_bytes, sample.first_frame, sample.offset, sample.crc32)
    words = (sample.source, *sample.captions)
    return (
        all(type(count) is int and count > 0 for count in counts)
        and all(type(place) is int and place >= 0 for place in places)
        and all(type(word) is str for word in words)
        and type(sample.fps) in (int, float)
        and sample.fps > 0
        and sample.split in SPLITS
        and sample.offset + sample.size <= tar_bytes
    )


def read_json(path: Path) -> dict[str, Any]:
    """The table in a file of `prepare`.

    Raises:
        ClipError: it is missing, unreadable, no JSON, or of another format.
    """
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ClipError(f"data: {path.name} must be a file that reelm prepare wrote, got {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ClipError(f"data: {path.name} must be of format {FORMAT} of reelm prepare, got another")
    return values


def read_sample(folder: Path, number: int, sample: Sample) -> bytes:
    """The bytes of a sample's mp4. The file is open for this read alone, so that any process or thread may call.

    Raises:
        ClipError: the tar is gone or its bytes have changed.
    """
    path = tar_path(folder, number)
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(sample.offset)
            data = file.read(sample.size)
    except OSError as error:
        raise ClipError(f"data: {path.name} must be readable, got {error.strerror}") from error
    if len(data) != sample.size or zlib.crc32(data) != sample.crc32:
        raise ClipError(f"data: {path.name} must hold the bytes that its index tells of {sample.source!r}, got others")
    return data
