"""Turn a folder of clips into clip shards: `reelm prepare my_clips --out shards`.

report = prepare(Path("my_clips"), Path("shards"), PrepareConfig(height=128, width=128), workers=4)

The sorted names of the clips alone determine which of them share a shard. So any number of workers and machines (`rank`
of `world_size`) makes the same shards. A run that was killed continues where it stopped: it keeps the finished shards
whose clips and options have not changed.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from ..core.config import to_dict
from ..core.errors import ClipError, ReelmError, require
from ..core.files import atomic_write
from ..core.json_values import Json
from ..core.progress import progress
from .clip_shards import is_prepared
from .pool import Died, run_all
from .recode import PrepareConfig, recode
from .shard_files import FORMAT, SPLITS, Sample, ShardIndex, read_index, read_json, tar_path, write_shard
from .sheet import write_sheet
from .sources import Source, find_sources

RANDOM = "?" * 8  # a glob pattern for the characters that tempfile appends to a name
CONFIG = PrepareConfig()
Recoded: TypeAlias = tuple[list[Sample], list[Path], str]  # samples, their files, and the reason if there are none
WORKERS = os.cpu_count() or 1


@dataclass(frozen=True)
class Report:
    """The result of preparing this rank's share of the clips.

    Attributes:
        files: The number of clips.
        shards: The indexes of the shards by their numbers.
        skipped: The clips that could not be used: (file, reason).
        ignored: The files whose names are neither those of clips nor those of captions.
        path: The path of the report file; the contact sheet is in the same folder.
    """

    files: int
    shards: dict[int, ShardIndex]
    skipped: list[tuple[str, str]]
    ignored: list[str]
    path: Path

    def count(self, split: str) -> tuple[int, int]:
        """Return the numbers of samples and of frames of a split."""
        frames = [sample.frames for shard in self.shards.values() for sample in shard.samples if sample.split == split]
        return len(frames), sum(frames)


def prepare(
    folder: Path, out: Path, config: PrepareConfig = CONFIG, *, workers: int = WORKERS, rank: int = 0,
    world_size: int = 1,
) -> Report:  # fmt: skip
    """Make the missing shards of this rank, then write its report and its contact sheet.

    Args:
        folder: The folder that is searched, with all its subfolders, for videos, gifs, images and their captions.
        out: The folder of the shards; it may lie in `folder`.
        config: The options of the samples.
        workers: The number of processes; with 0 the clips are prepared in this process.
        rank: The index of this machine, from 0.
        world_size: The number of machines that share the work, each with the same `folder` and `out`.

    Raises:
        ReelmError: An argument is out of its range, the folder holds no clip, `out` holds shards that were made with
            other options, or a file could not be written. A clip that cannot be used is not an error: it is listed in
            the report.
    """
    require(folder.is_dir(), "folder", "must be an existing folder", str(folder))
    require(workers >= 0, "workers", "must be at least 0", workers)
    require(world_size >= 1, "world_size", "must be at least 1", world_size)
    require(0 <= rank < world_size, "rank", f"must be from 0 to {world_size - 1}", rank)
    sources, ignored = find_sources(folder, leave_out=out)
    require(len(sources) > 0, "folder", "must hold at least one video, gif or image", str(folder))
    size = config.clips_per_shard
    groups = [sources[start : start + size] for start in range(0, len(sources), size)]
    _claim_folder(out, config, len(groups))
    numbers = range(rank, len(groups), world_size)
    shards = {number: _finished_shard(out, number, _fingerprint(config, groups[number])) for number in numbers}
    missing = [number for number in numbers if shards[number] is None]
    suffix = "" if world_size == 1 else f"-{rank}-of-{world_size}"
    _remove_temporary_files(
        out, [f"samples{suffix}", f"report{suffix}", *(tar_path(out, number).stem for number in missing)]
    )
    with _parts_folder(out, f".parts{suffix}-") as parts:
        missing_sources = [source for number in missing for source in groups[number]]
        jobs = [(source, config, parts / f"{index:07d}") for index, source in enumerate(missing_sources)]
        with contextlib.closing(run_all(_recode, jobs, workers)) as results:
            recoded = progress(results, f"preparing {len(jobs)} clips", unit="clip", total=len(jobs))
            for number in missing:
                shards[number] = _assemble(out, number, groups[number], recoded, _fingerprint(config, groups[number]))
    done = {number: shard for number, shard in shards.items() if shard is not None}
    skipped = [entry for number in numbers for entry in done[number].skipped]
    path = out / f"report{suffix}.json"
    report = Report(sum(len(groups[number]) for number in numbers), done, skipped, ignored, path)
    write_sheet(out / f"samples{suffix}.png", out, done)
    atomic_write(report.path, json.dumps(_report_json(report, config), indent=1) + "\n")
    return report


def is_up_to_date(out: Path, folder: Path, config: PrepareConfig) -> bool:
    """Return whether `out` already holds exactly the shards that `prepare` would make of the clips in `folder`."""
    path = out / "shards.json"
    if not path.is_file() or read_json(path).get("config") != json.loads(json.dumps(to_dict(config))):
        return False
    sources, size = find_sources(folder, leave_out=out)[0], config.clips_per_shard
    groups = [sources[start : start + size] for start in range(0, len(sources), size)]
    finished = [
        _finished_shard(out, number, _fingerprint(config, group)) is not None for number, group in enumerate(groups)
    ]
    return all(finished) and read_json(path).get("shards") == len(groups)


def prepare_once(folder: Path, out: Path, known: Path | None = None) -> tuple[Path, Report | None]:
    """Return the folder of the shards of some clips; prepare them with the default options where there are none yet.

    Args:
        folder: A folder of shards, which is returned as it is, or of any clips.
        out: The folder of a training run; new shards are written to its subfolder "shards".
        known: A folder of shards that is returned if it was made of the same clips with the default options.

    Returns:
        The folder of the shards, and the report of `prepare` if this call made them.

    Raises:
        ReelmError: The clips cannot be prepared; see `prepare`.
    """
    if is_prepared(folder):
        return folder, None
    if known is not None and is_up_to_date(known, folder, CONFIG):
        return known, None
    return out / "shards", prepare(folder, out / "shards")


def _claim_folder(out: Path, config: PrepareConfig, shards: int) -> None:
    """Write the options and the number of shards to `shards.json`; refuse a folder that was made with other options."""
    out.mkdir(parents=True, exist_ok=True)
    path, options = out / "shards.json", json.loads(json.dumps(to_dict(config)))
    if path.exists():
        old_options = read_json(path).get("config")
        rule = "must be a new folder, or one made with the same options"
        old_options = old_options if isinstance(old_options, dict) else {}
        differing = {name: old_options.get(name) for name in options if old_options.get(name) != options[name]}
        require(old_options == options, "out", rule, differing)
    atomic_write(path, json.dumps({"format": FORMAT, "shards": shards, "config": options}, indent=1) + "\n")
    # There may be fewer clips than before, and so fewer shards.
    for old in out.glob("clips-*.json"):
        number = old.stem.removeprefix("clips-")
        if number.isdecimal() and int(number) >= shards:
            old.unlink(missing_ok=True)
            tar_path(out, int(number)).unlink(missing_ok=True)


def _fingerprint(config: PrepareConfig, sources: list[Source]) -> str:
    values = [FORMAT, to_dict(config), [source.stamp() for source in sources]]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _finished_shard(out: Path, number: int, fingerprint: str) -> ShardIndex | None:
    """Return the index of a complete shard with this fingerprint, if it exists."""
    try:
        shard = read_index(out, number)
    except ClipError:
        return None
    return shard if shard.fingerprint == fingerprint else None


def _remove_temporary_files(out: Path, stems: list[str]) -> None:
    """Remove the temporary files of a run that was killed while it wrote the files with these stems."""
    for stem in stems:
        for old in out.glob(f".{stem}-{RANDOM}.*"):
            old.unlink(missing_ok=True)


@contextlib.contextmanager
def _parts_folder(out: Path, prefix: str) -> Iterator[Path]:
    """Yield a temporary folder for samples that are not in a shard yet; remove those that killed runs left."""
    for old in out.glob(f"{prefix}{RANDOM}"):
        shutil.rmtree(old, ignore_errors=True)
    parts = Path(tempfile.mkdtemp(prefix=prefix, dir=out))
    try:
        yield parts
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def _recode(job: tuple[Source, PrepareConfig, Path]) -> Recoded:
    """Return the samples of a clip and their files, and the reason if there are none."""
    source, config, folder = job
    # A worker that died may have left files of this clip.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        return *recode(source, config, folder), ""
    except ClipError as error:
        # The report may be passed on; it should not reveal the paths of this machine.
        reason = str(error).replace(str(source.path), source.name)
        return [], [], " ".join(reason.split()).encode("utf-8", "backslashreplace").decode()


def _assemble(
    out: Path, number: int, sources: list[Source], results: Iterator[Recoded | Died], fingerprint: str
) -> ShardIndex:
    """Write a shard of the next results, one for each of its sources."""
    samples: list[Sample] = []
    paths: list[Path] = []
    skipped = []
    for source in sources:
        result = next(results)
        new_samples, new_paths, reason = ([], [], "its decoder died") if isinstance(result, Died) else result
        samples += new_samples
        paths += new_paths
        if reason:
            skipped.append((source.name, reason))
    try:
        shard = write_shard(out, number, samples, paths, fingerprint=fingerprint, skipped=skipped)
    except OSError as error:
        raise ReelmError(f"out: {str(tar_path(out, number))!r} could not be written: {error}") from error
    for path in paths:
        path.unlink()
    return shard


def _report_json(report: Report, config: PrepareConfig) -> Json:
    splits: Json = {split: dict(zip(("samples", "frames"), report.count(split), strict=True)) for split in SPLITS}
    return {
        "format": FORMAT,
        "files": report.files,
        "used": report.files - len(report.skipped),
        **splits,
        "skipped": [{"file": file, "reason": reason} for file, reason in report.skipped],
        "ignored": [*report.ignored],
        "config": asdict(config),
    }
