"""Clip shards on disk: mp4 files in an uncompressed tar, and a JSON index of their positions in it.

    write_shard(folder, 3, samples, paths, fingerprint=..., skipped=[], notes=[])  # clips-00003.tar, .json
    shard = read_index(folder, 3)
    data = read_sample(folder, 3, shard.samples[0])                         # the bytes of the mp4, checked

A folder holds `shards.json` (the number of shards when all are finished, and the options that made them) and the
shards. The index is written after the tar, so a tar without an index is not a finished shard.
"""

import dataclasses
import io
import json
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.controls import ControlTrack, read_written
from ..core.errors import ClipError
from ..core.files import atomic_path, atomic_write
from ..core.json_values import Json

FORMAT = 1
SPLITS = ("train", "held-out")


@dataclass(frozen=True, slots=True)
class Sample:
    """The index entry of one sample: consecutive frames of a clip, stored as an mp4 in a shard.

    Attributes:
        source: The name of the clip's file.
        split: The name of the split: train or held-out.
        first_frame: The index of the first frame in the clip, counted at the sample's `fps`.
        frames: The number of frames.
        fps: The frames per second.
        height: The height in pixels.
        width: The width in pixels.
        captions: The captions of the clip, each of which describes all of it.
        offset: The offset of the mp4's first byte in the tar.
        size: The size of the mp4 in bytes.
        crc32: The CRC-32 of the mp4's bytes.
        controls: What was held while each frame was shown; None if it was not recorded.
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
    controls: ControlTrack | None = None


@dataclass(frozen=True)
class ShardIndex:
    """The index of a shard.

    Attributes:
        fingerprint: The hash of the clips and options that the shard was made from.
        tar_bytes: The size of the tar in bytes.
        samples: The samples, ordered by clip and by time.
        skipped: The clips that could not be used: (file, reason).
        notes: What reading did to clips or could not read of them: (file, note).
    """

    fingerprint: str
    tar_bytes: int
    samples: list[Sample]
    skipped: list[tuple[str, str]]
    notes: list[tuple[str, str]]


def tar_path(folder: Path, number: int) -> Path:
    """Return the path of a shard's tar; its index has the same name with the suffix .json."""
    return folder / f"clips-{number:05d}.tar"


def write_shard(
    folder: Path,
    number: int,
    samples: list[Sample],
    paths: list[Path],
    *,
    fingerprint: str,
    skipped: list[tuple[str, str]],
    notes: list[tuple[str, str]],
) -> ShardIndex:
    """Write a tar of the mp4 files at `paths`, then its index, and return the index.

    Args:
        folder: The folder of the shards.
        number: The number of the shard.
        samples: The samples; their offset, size and crc32 are filled in here.
        paths: The mp4 file of each sample.
        fingerprint: The hash of the clips and options that the shard is made from.
        skipped: The clips that could not be used: (file, reason).
        notes: What reading did to clips or could not read of them: (file, note).
    """
    path, indexed = tar_path(folder, number), []
    with atomic_path(path) as temporary:
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for position, (sample, source) in enumerate(zip(samples, paths, strict=True)):
                data = source.read_bytes()
                info = tarfile.TarInfo(f"{number:05d}-{position:06d}.mp4")
                info.size = len(data)
                offset = tar.offset + tarfile.BLOCKSIZE  # after the header, which takes one block
                tar.addfile(info, io.BytesIO(data))
                indexed.append(dataclasses.replace(sample, offset=offset, size=len(data), crc32=zlib.crc32(data)))
        size = temporary.stat().st_size
    index = ShardIndex(fingerprint, size, indexed, skipped, notes)
    values = vars(index) | {"samples": [_to_entry(sample) for sample in indexed]}
    atomic_write(path.with_suffix(".json"), json.dumps({"format": FORMAT, **values}, indent=1) + "\n")
    return index


def _to_entry(sample: Sample) -> Json:
    """Return the JSON of a sample; controls are there only if it has some, their keys in the written form."""
    entry = dataclasses.asdict(dataclasses.replace(sample, controls=None))
    del entry["controls"]
    if sample.controls is not None:
        # Six digits are more than any device or model tells apart, and keep the index small.
        axes = {name: [float(f"{value:.6g}") for value in values] for name, values in sample.controls.axes.items()}
        entry["controls"] = {"keys": sample.controls.written, "axes": axes}
    return entry


def _from_entry(entry: Mapping[str, Any]) -> Sample:
    """Return the sample of its JSON, whose fields are not checked yet."""
    values: dict[str, Any] = {**entry, "captions": tuple(entry["captions"])}
    if "controls" in entry:
        axes = {name: tuple(map(float, turns)) for name, turns in entry["controls"]["axes"].items()}
        values["controls"] = ControlTrack(read_written(entry["controls"]["keys"]).keys, axes)
    return Sample(**values)


def read_index(folder: Path, number: int) -> ShardIndex:
    """Return the index of a shard, after checking that the tar exists and has the size that the index states.

    Raises:
        ClipError: The index or the tar is missing or damaged.
    """
    path = tar_path(folder, number)
    name = path.with_suffix(".json").name
    values: Any = read_json(path.with_suffix(".json"))
    try:
        samples = [_from_entry(entry) for entry in values["samples"]]
        skipped, notes = ([(str(file), str(text)) for file, text in values[name]] for name in ("skipped", "notes"))
        index = ShardIndex(values["fingerprint"], values["tar_bytes"], samples, skipped, notes)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ClipError(
            f"data: {name} must be the index of a clip shard, got {type(error).__name__}: {error}"
        ) from error
    if not all(_is_valid(sample, index.tar_bytes) for sample in samples):
        raise ClipError(f"data: {name} must have samples that lie in their tar, got another")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise ClipError(f"data: {path.name} must be in the folder of its index, got {error.strerror}") from error
    if size != index.tar_bytes:
        raise ClipError(f"data: {path.name} must have {index.tar_bytes} bytes, got {size}")
    return index


def _is_valid(sample: Sample, tar_bytes: Any) -> bool:
    """Return whether the fields of an index entry have the right types and ranges."""
    positive = (sample.frames, sample.height, sample.width, sample.size)
    non_negative = (tar_bytes, sample.first_frame, sample.offset, sample.crc32)
    texts = (sample.source, *sample.captions)
    return (
        all(type(value) is int and value > 0 for value in positive)
        and all(type(value) is int and value >= 0 for value in non_negative)
        and all(type(text) is str for text in texts)
        and type(sample.fps) in (int, float)
        and sample.fps > 0
        and sample.split in SPLITS
        and (sample.controls is None or len(sample.controls) == sample.frames)
        and sample.offset + sample.size <= tar_bytes
    )


def read_json(path: Path) -> Json:
    """Return the JSON object in a file that `prepare` wrote.

    Raises:
        ClipError: The file is missing, unreadable, not JSON, or of another format version.
    """
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ClipError(f"data: {path.name} must be a file that reelm prepare wrote, got {error}") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise ClipError(f"data: {path.name} must be of format {FORMAT} of reelm prepare, got another")
    return values


def read_sample(folder: Path, number: int, sample: Sample) -> bytes:
    """Return the bytes of a sample's mp4.

    The tar is opened for this read alone, so any process or thread may call this.

    Raises:
        ClipError: The tar is missing or its bytes have changed.
    """
    path = tar_path(folder, number)
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(sample.offset)
            data = file.read(sample.size)
    except OSError as error:
        raise ClipError(f"data: {path.name} must be readable, got {error.strerror}") from error
    if len(data) != sample.size or zlib.crc32(data) != sample.crc32:
        raise ClipError(f"data: {path.name} must hold the bytes that its index lists for {sample.source!r}, got others")
    return data
