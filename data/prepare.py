"""Turn a folder of clips into clip shards: `reelm prepare my_clips --out shards`.

report = prepare(Path("my_clips"), Path("shards"), PrepareConfig(height=128, width=128), workers=4)

The sorted names of the clips alone determine which of them share a shard. So any number of workers and machines (`rank`
of `world_size`) makes the same shards. A run that was killed continues where it stopped: it keeps the finished shards
whose clips and options have not changed.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeAlias

from ..core.config import from_dict, to_dict
from ..core.errors import ClipError, ReelmError, require
from ..core.files import atomic_write
from ..core.folders import check_folder, kind_of, mark_folder
from ..core.json_values import Json
from ..core.pool import Died, run_all
from ..core.progress import progress
from ..core.ray_pool import RayOptions, made_file, run_on_ray
from .clip_shards import ClipShards, is_prepared
from .rates import choose_fps
from .recode import PrepareConfig, recode
from .shard_files import FORMAT, SPLITS, Sample, ShardIndex, read_index, read_json, tar_path, write_shard
from .sheet import write_sheet
from .sources import Source, find_sources

RANDOM = "?" * 8  # a glob pattern for the characters that tempfile appends to a name
CONFIG = PrepareConfig()
# Samples, their files, notes of how they were read, and the reason if there are none.
Recoded: TypeAlias = tuple[list[Sample], list[Path], tuple[str, ...], str]


@dataclass(frozen=True)
class Report:
    """The result of preparing this rank's share of the clips.

    Attributes:
        files: The number of clips.
        shards: The indexes of the shards by their numbers.
        fps: The frames per second of all samples; None where all clips are stills.
        skipped: The clips that could not be used: (file, reason).
        notes: What reading did to clips or could not read of them: (file, note).
        ignored: The files whose names are neither those of clips nor those of captions or controls.
        made_here: The folders among the clips that reelm made, which were not searched.
        path: The path of the report file; the contact sheet is in the same folder.
    """

    files: int
    shards: dict[int, ShardIndex]
    fps: float | None
    skipped: list[tuple[str, str]]
    notes: list[tuple[str, str]]
    ignored: list[str]
    made_here: list[str]
    path: Path

    @property
    def stills(self) -> int:
        """The number of clips of one frame."""
        frames = Counter[str]()
        for shard in self.shards.values():
            for sample in shard.samples:
                frames[sample.source] += sample.frames
        return sum(count == 1 for count in frames.values())

    def controls(self) -> tuple[int, list[str]]:
        """Return the number of clips with controls, and the names of their keys and axes."""
        samples = [sample for shard in self.shards.values() for sample in shard.samples if sample.controls is not None]
        tracks = [sample.controls for sample in samples if sample.controls is not None]
        names = {name for track in tracks for name in (*track.axes, *frozenset().union(*track.keys))}
        return len({sample.source for sample in samples}), sorted(names)

    def count(self, split: str) -> tuple[int, int]:
        """Return the numbers of samples and of frames of a split."""
        frames = [sample.frames for shard in self.shards.values() for sample in shard.samples if sample.split == split]
        return len(frames), sum(frames)


def prepare(
    folder: Path, out: Path, config: PrepareConfig = CONFIG, *, workers: int | None = None, rank: int = 0,
    world_size: int = 1, ray: RayOptions | None = None,
) -> Report:  # fmt: skip
    """Make the missing shards of this rank, then write its report and its contact sheet.

    Args:
        folder: The folder that is searched, with all its subfolders, for videos, gifs, images and what lies
            beside them: captions and controls.
        out: The folder of the shards; it may lie in `folder`.
        config: The options of the samples.
        workers: The number of processes, one for each CPU unless given; with 0 the clips are prepared in this process.
        rank: The index of this machine, from 0.
        world_size: The number of machines that share the work, each with the same `folder` and `out`.
        ray: Where the shards are made with Ray; `workers` processes of this machine make them unless given.

    Raises:
        ReelmError: An argument is out of its range, the folder holds no clip, `out` holds other files or shards that
            were made with other options, a file could not be written, or Ray cannot be used. A clip that cannot be used
            is not an error: it is listed in the report.
    """
    require(folder.is_dir(), "folder", "must be an existing folder", str(folder))
    workers = (os.cpu_count() or 1) if workers is None else workers
    require(workers >= 0, "workers", "must be at least 0", workers)
    require(world_size >= 1, "world_size", "must be at least 1", world_size)
    require(0 <= rank < world_size, "rank", f"must be from 0 to {world_size - 1}", rank)
    check_folder(out, "shards")
    found = find_sources(folder, leave_out=out)
    sources, size = found.sources, config.clips_per_shard
    require(len(sources) > 0, "folder", "must hold at least one video, gif or image", str(folder))
    groups = [sources[start : start + size] for start in range(0, len(sources), size)]
    config = _resolve(config, out, sources, workers)
    _claim_folder(out, config, len(groups))
    numbers = range(rank, len(groups), world_size)
    shards = {number: _finished_shard(out, number, _fingerprint(config, groups[number])) for number in numbers}
    missing = [number for number in numbers if shards[number] is None]
    suffix = "" if world_size == 1 else f"-{rank}-of-{world_size}"
    _remove_temporary_files(
        out, [f"samples{suffix}", f"report{suffix}", *(tar_path(out, number).stem for number in missing)]
    )
    for old in [path for number in missing for path in out.glob(f".parts-{number}-{RANDOM}")]:
        shutil.rmtree(old, ignore_errors=True)  # of a run with Ray that was killed
    jobs = [(number, groups[number]) for number in missing]
    if ray is None:
        made = _make_shards(out, config, jobs, f".parts{suffix}-", workers)
    else:
        made = _make_on_ray(out, config, jobs, ray)
    with contextlib.closing(made):
        shards |= dict(made)
    done = {number: shard for number, shard in shards.items() if shard is not None}
    skipped, notes = (
        [entry for number in numbers for entry in getattr(done[number], name)] for name in ("skipped", "notes")
    )
    report = Report(
        sum(len(groups[number]) for number in numbers), done, config.fps, skipped, notes, found.ignored,
        found.made_here, out / f"report{suffix}.json",
    )  # fmt: skip
    write_sheet(out / f"samples{suffix}.png", out, done)
    atomic_write(report.path, json.dumps(_report_json(report, config), indent=1) + "\n")
    return report


def _resolve(config: PrepareConfig, out: Path, sources: list[Source], workers: int) -> PrepareConfig:
    """Return the options with a rate: the one given, that of the shards in `out`, or the median of the clips' own.

    It stays None where no clip moves.
    """
    if config.fps is not None:
        return config
    saved = None if kind_of(out) != "shards" else _saved_config(out)
    fps = saved.fps if saved is not None and saved.fps is not None else choose_fps([s.path for s in sources], workers)
    return replace(config, fps=fps)


def _saved_config(out: Path) -> PrepareConfig | None:
    """Return the options in `shards.json`; None where a run was killed before it wrote the file."""
    path = out / "shards.json"
    return from_dict(PrepareConfig, read_json(path).get("config"), path.name) if path.is_file() else None


def is_up_to_date(out: Path, folder: Path, config: PrepareConfig) -> bool:
    """Return whether `out` already holds exactly the shards that `prepare` would make of the clips in `folder`."""
    saved = _saved_config(out) if is_prepared(out) else None
    if saved is None or saved != (config if config.fps is not None else replace(config, fps=saved.fps)):
        return False
    sources, size = find_sources(folder, leave_out=out).sources, config.clips_per_shard
    groups = [sources[start : start + size] for start in range(0, len(sources), size)]
    finished = [
        _finished_shard(out, number, _fingerprint(saved, group)) is not None for number, group in enumerate(groups)
    ]
    return all(finished) and read_json(out / "shards.json").get("shards") == len(groups)


def prepare_once(
    folder: Path, out: Path, *, fps: float | None = None, known: Path | None = None
) -> tuple[Path, Report | None]:
    """Return the folder of the shards of some clips; prepare them with the default options where there are none yet.

    Args:
        folder: A folder of shards, which is returned as it is, or of any clips.
        out: The folder of a training run; new shards are written to its subfolder "shards".
        fps: The frames per second of the clips; the median of their own rates unless given.
        known: A folder of shards that is returned if it was made of the same clips with these options.

    Returns:
        The folder of the shards, and the report of `prepare` if this call made them.

    Raises:
        ReelmError: The clips cannot be prepared (see `prepare`), or the shards have another rate than `fps`.
    """
    require(folder.is_dir(), "data", "must be an existing folder", str(folder))
    if is_prepared(folder):
        rate = ClipShards(folder).fps
        require(fps is None or fps == rate, "fps", f"must be {rate}, which the prepared clips have", fps)
        return folder, None
    config = replace(CONFIG, fps=fps)
    if known is not None and is_up_to_date(known, folder, config):
        return known, None
    return out / "shards", prepare(folder, out / "shards", config)


def _claim_folder(out: Path, config: PrepareConfig, shards: int) -> None:
    """Mark the folder, and write the options and the number of shards; refuse one that was made with other options."""
    mark_folder(out, "shards")
    path, options = out / "shards.json", json.loads(json.dumps(to_dict(config)))
    saved = _saved_config(out)
    if saved is not None and saved.fps is None:
        saved = replace(saved, fps=config.fps)  # all clips were stills, which have no rate
    rule = "must be a new folder, or one made with the same options"
    old_options = options if saved is None else to_dict(saved)
    differing = {name: old_options[name] for name in options if old_options[name] != options[name]}
    require(not differing, "out", rule, differing)
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


def _make_shards(
    out: Path, config: PrepareConfig, jobs: list[tuple[int, list[Source]]], prefix: str, workers: int
) -> Generator[tuple[int, ShardIndex], None, None]:
    """Make shards of these numbers and clips, and yield each when it is written; see `_parts_folder` for `prefix`."""
    with _parts_folder(out, prefix) as parts:
        sources = [source for _, group in jobs for source in group]
        clips = [(source, config, parts / f"{index:07d}") for index, source in enumerate(sources)]
        with contextlib.closing(run_all(_recode, clips, workers)) as results:
            recoded = progress(results, f"preparing {len(clips)} clips", unit="clip", total=len(clips))
            for number, group in jobs:
                yield number, _assemble(out, number, group, recoded, _fingerprint(config, group))


def _make_on_ray(
    out: Path, config: PrepareConfig, jobs: list[tuple[int, list[Source]]], ray: RayOptions
) -> Generator[tuple[int, ShardIndex], None, None]:
    """Yield the same as `_make_shards`, in any order, from processes of Ray, each with one that decodes."""
    jobs = [(number, [replace(source, path=source.path.absolute()) for source in group]) for number, group in jobs]
    made = run_on_ray(functools.partial(_ShardMaker, out.absolute(), config), jobs, ray)
    for job, shard in progress(made, "preparing shards", unit="shard", total=len(jobs)):
        yield jobs[job][0], made_file(tar_path(out, jobs[job][0]), shard)


class _ShardMaker:
    """Makes one shard after another in a process of Ray."""

    def __init__(self, out: Path, config: PrepareConfig) -> None:
        self._out, self._config = out, config

    def __call__(self, job: tuple[int, list[Source]]) -> ShardIndex:
        """Make the shard of a number and its clips."""
        ((_, shard),) = _make_shards(self._out, self._config, [job], f".parts-{job[0]}-", 1)
        return shard


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
        return [], [], (), " ".join(reason.split()).encode("utf-8", "backslashreplace").decode()


def _assemble(
    out: Path, number: int, sources: list[Source], results: Iterator[Recoded | Died], fingerprint: str
) -> ShardIndex:
    """Write a shard of the next results, one for each of its sources."""
    samples: list[Sample] = []
    paths: list[Path] = []
    skipped, notes = [], []
    for source in sources:
        result = next(results)
        died: Recoded = ([], [], (), "its decoder died")
        new_samples, new_paths, new_notes, reason = died if isinstance(result, Died) else result
        samples += new_samples
        paths += new_paths
        notes += [(source.name, text) for text in new_notes]
        if reason:
            skipped.append((source.name, reason))
    try:
        shard = write_shard(out, number, samples, paths, fingerprint=fingerprint, skipped=skipped, notes=notes)
    except OSError as error:
        raise ReelmError(f"out: {str(tar_path(out, number))!r} could not be written: {error}") from error
    for path in paths:
        path.unlink()
    return shard


def _report_json(report: Report, config: PrepareConfig) -> Json:
    controlled, names = report.controls()
    splits: Json = {split: dict(zip(("samples", "frames"), report.count(split), strict=True)) for split in SPLITS}
    return {
        "format": FORMAT,
        "files": report.files,
        "used": report.files - len(report.skipped),
        **splits,
        "stills": report.stills,
        "controls": {"clips": controlled, "names": [*names]},
        "skipped": [{"file": file, "reason": reason} for file, reason in report.skipped],
        "notes": [{"file": file, "note": text} for file, text in report.notes],
        "ignored": [*report.ignored],
        "made_by_reelm": [*report.made_here],
        "config": asdict(config),
    }
