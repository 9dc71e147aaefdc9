"""A folder of clips to clip shards: `reelm prepare my_clips --out shards`.

report = prepare(Path("my_clips"), Path("shards"), PrepareConfig(height=128, width=128), workers=4)

Which clips share a shard follows from their sorted names alone. So any number of workers and machines (`rank` of
`world_size`) makes the same shards, and a run that was killed goes on where it was: shards that are whole and whose
clips and options have not changed are kept.
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
from typing import Any

from ..core.config import to_dict
from ..core.errors import ClipError, ReelmError, require
from ..core.files import atomic_write
from ..core.progress import progress
from .clip_shards import is_prepared
from .pool import DIED, run_all
from .recode import PrepareConfig, recode
from .shard_files import FORMAT, SPLITS, Sample, ShardIndex, read_index, read_json, tar_path, write_shard
from .sheet import write_sheet
from .sources import Source, find_sources

# What tempfile puts at the end of a name.
RANDOM = "?" * 8
CONFIG = PrepareConfig()
WORKERS = os.cpu_count() or 1  # processes


@dataclass(frozen=True)
class Report:
    """What became of the clips that were this rank's share.

    Attributes:
        files: how many clips there were.
        shards: their indexes by number.
        skipped: (file, reason) of those that could not be used.
        ignored: files that are no clip by their name, nor captions of one.
        path: the report file; the contact sheet lies beside it.
    """

    files: int
    shards: dict[int, ShardIndex]
    skipped: list[tuple[str, str]]
    ignored: list[str]
    path: Path

    def count(self, split: str) -> tuple[int, int]:
        """Samples and frames of a split."""
        frames = [sample.frames for shard in self.shards.values() for sample in shard.samples if sample.split == split]
        return len(frames), sum(frames)


def prepare(
    folder: Path, out: Path, config: PrepareConfig = CONFIG, *, workers: int = WORKERS, rank: int = 0,
    world_size: int = 1,
) -> Report:  # fmt: skip
    """Make the shards of this rank that are not there yet; then its report and its contact sheet.

    Args:
        folder: searched through all its folders for videos, gifs and images, and for captions beside them.
        out: the folder of the shards; it may lie in `folder`.
        config: what samples are made of clips.
        workers: processes; 0 works in this one.
        rank: this machine's number, from 0.
        world_size: how many machines share the work, each with the same `folder` and `out`.

    Raises:
        ReelmError: an argument is out of its range, the folder holds no clip, `out` holds shards that were made with
            other options, or the disk refused. A clip that cannot be used is no error: it is in the report.
    """
    require(folder.is_dir(), "folder", "must be an existing folder", str(folder))
    require(workers >= 0, "workers", "must be at least 0", workers)
    require(world_size >= 1, "world_size", "must be at least 1", world_size)
    require(0 <= rank < world_size, "rank", f"must be from 0 to {world_size - 1}", rank)
    sources, ignored = find_sources(folder, leave_out=out)
    require(len(sources) > 0, "folder", "must hold at least one video, gif or image", str(folder))
    size = config.clips_per_shard
    groups = [sources[start : start + size] for start in range(0, len(sources), size)]
    _claim(out, config, len(groups))
    mine = range(rank, len(groups), world_size)
    shards = {number: _kept(out, number, _fingerprint(config, groups[number])) for number in mine}
    missing = [number for number in mine if shards[number] is None]
    part = "" if world_size == 1 else f"-{rank}-of-{world_size}"
    _tidy(out, [f"samples{part}", f"report{part}", *(tar_path(out, number).stem for number in missing)])
    with _parts_folder(out, f".parts{part}-") as parts:
        to_do = [source for number in missing for source in groups[number]]
        jobs = [(source, config, parts / f"{place:07d}") for place, source in enumerate(to_do)]
        with contextlib.closing(run_all(_recode, jobs, workers)) as results:
            told = progress(results, f"preparing {len(jobs)} clips", unit="clip", total=len(jobs))
            for number in missing:
                shards[number] = _assemble(out, number, groups[number], told, _fingerprint(config, groups[number]))
    done = {number: shard for number, shard in shards.items() if shard is not None}
    skipped = [entry for number in mine for entry in done[number].skipped]
    path = out / f"report{part}.json"
    report = Report(sum(len(groups[number]) for number in mine), done, skipped, ignored, path)
    write_sheet(out / f"samples{part}.png", out, done)
    atomic_write(report.path, json.dumps(_table(report, config), indent=1) + "\n")
    return report


def is_made_of(out: Path, folder: Path, config: PrepareConfig) -> bool:
    """Whether `out` holds just what `prepare` would make of these clips: then it need not be made again."""
    path = out / "shards.json"
    if not path.is_file() or read_json(path).get("config") != json.loads(json.dumps(to_dict(config))):
        return False
    sources, size = find_sources(folder, leave_out=out)[0], config.clips_per_shard
    groups = [sources[start : start + size] for start in range(0, len(sources), size)]
    kept = [_kept(out, number, _fingerprint(config, group)) is not None for number, group in enumerate(groups)]
    return all(kept) and read_json(path).get("shards") == len(groups)


def prepare_once(folder: Path, out: Path, known: Path | None = None) -> tuple[Path, Report | None]:
    """The shards of a folder of clips, made by the default options where there are none yet.

    Args:
        folder: shards, which are returned as they are, or any clips.
        out: of a training run; new shards lie in its folder "shards".
        known: shards that are returned if they were made of these very clips by the default options.

    Returns:
        The folder of the shards, and the report of `prepare` where they were made now.

    Raises:
        ReelmError: as for `prepare`.
    """
    if is_prepared(folder):
        return folder, None
    if known is not None and is_made_of(known, folder, CONFIG):
        return known, None
    return out / "shards", prepare(folder, out / "shards")


def _claim(out: Path, config: PrepareConfig, shards: int) -> None:
    """Say in `shards.json` what the folder is to hold; refuse one that holds something else."""
    out.mkdir(parents=True, exist_ok=True)
    path, wanted = out / "shards.json", json.loads(json.dumps(to_dict(config)))
    if path.exists():
        made = read_json(path).get("config")
        rule = "must be a new folder, or one made with the same options"
        made = made if isinstance(made, dict) else {}
        require(
            made == wanted, "out", rule, {name: made.get(name) for name in wanted if made.get(name) != wanted[name]}
        )
    atomic_write(path, json.dumps({"format": FORMAT, "shards": shards, "config": wanted}, indent=1) + "\n")
    # Clips that are gone may leave shards behind the last one.
    for old in out.glob("clips-*.json"):
        number = old.stem.removeprefix("clips-")
        if number.isdecimal() and int(number) >= shards:
            old.unlink(missing_ok=True)
            tar_path(out, int(number)).unlink(missing_ok=True)


def _fingerprint(config: PrepareConfig, sources: list[Source]) -> str:
    values = [FORMAT, to_dict(config), [source.stamp() for source in sources]]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _kept(out: Path, number: int, fingerprint: str) -> ShardIndex | None:
    try:
        shard = read_index(out, number)
    except ClipError:
        return None
    return shard if shard.fingerprint == fingerprint else None


def _tidy(out: Path, stems: list[str]) -> None:
    """Remove what a run that was killed in the middle of writing these files has left beside them."""
    for stem in stems:
        for old in out.glob(f".{stem}-{RANDOM}.*"):
            old.unlink(missing_ok=True)


@contextlib.contextmanager
def _parts_folder(out: Path, prefix: str) -> Iterator[Path]:
    """A folder for samples on their way; what a killed run left of its own is removed."""
    for old in out.glob(f"{prefix}{RANDOM}"):
        shutil.rmtree(old, ignore_errors=True)
    parts = Path(tempfile.mkdtemp(prefix=prefix, dir=out))
    try:
        yield parts
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def _recode(job: tuple[Source, PrepareConfig, Path]) -> tuple[list[Sample], list[Path], str]:
    """The samples of a clip and their files, or the reason why there are none."""
    source, config, folder = job
    # A worker that died may have left files of this very clip.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        return *recode(source, config, folder), ""
    except ClipError as error:
        # A report may travel; the place of the folder on this machine is nobody's business.
        reason = str(error).replace(str(source.path), source.name)
        return [], [], " ".join(reason.split()).encode("utf-8", "backslashreplace").decode()


def _assemble(out: Path, number: int, sources: list[Source], results: Iterator[Any], fingerprint: str) -> ShardIndex:
    """A shard from the next results, one for each of its sources."""
    samples: list[Sample] = []
    paths: list[Path] = []
    skipped = []
    for source in sources:
        result = next(results)
        new_samples, new_paths, reason = ([], [], "its decoder died") if result is DIED else result
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


def _table(report: Report, config: PrepareConfig) -> dict[str, Any]:
    splits = {split: dict(zip(("samples", "frames"), report.count(split), strict=True)) for split in SPLITS}
    return {
        "format": FORMAT,
        "files": report.files,
        "used": report.files - len(report.skipped),
        **splits,
        "skipped": [{"file": file, "reason": reason} for file, reason in report.skipped],
        "ignored": report.ignored,
        "config": asdict(config),
    }
