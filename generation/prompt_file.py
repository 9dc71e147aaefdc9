"""Clips of a file of prompts, each line a JSON object with a prompt and options of `generate`.

    report = draw_prompts(generator, Path("prompts.jsonl"), Path("clips"), batch_size=8)
    print(report.rows, report.refused)

The folder gets a clip for each row, and results.jsonl: for each row its number, its seed and the hash of its tokens, or
the reason for which it was refused. The same call again draws what is missing alone: rows that are finished, by their
lines and contents, are left as they are, and so are clips of rows that were changed since. A row gives the clip that
`generate` gives with its prompt, options and seed alone, whoever draws it.
"""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from ..core.errors import ReelmError, require
from ..core.folders import FolderKind, check_folder, mark_folder, options_of
from ..core.json_values import Json
from ..core.log import Entry, LineLog
from ..core.pool import Died
from ..core.progress import progress
from ..core.ray_pool import MOST_STARTS, RayOptions, made_file, run_on_ray
from .generator import VideoGenerator
from .pretrained import HubOptions
from .prompt_rows import Row, RowOptions, chunks, read_rows
from .request import read_request
from .video import Video

KIND: FolderKind = "clips of prompts"
RESULTS, SESSION = "results.jsonl", ".session.safetensors"


@dataclass(frozen=True)
class PromptsReport:
    """What became of a file of prompts.

    Attributes:
        out: The folder of the clips.
        rows: The number of rows.
        known: The number of rows whose results were there before.
        refused: The reason for each row that is refused, by its number.
    """

    out: Path
    rows: int
    known: int
    refused: dict[int, str]


def draw_prompts(
    generator: VideoGenerator,
    prompts: Path,
    out: Path,
    *,
    seed: int = 0,
    batch_size: int = 8,
    save_state: bool = False,
    ray: RayOptions | None = None,
    **options: Unpack[RowOptions],
) -> PromptsReport:
    """Draw the clips of a file of prompts that are missing in a folder.

    Args:
        generator: The model.
        prompts: The file; each line is a JSON object with `prompt`, a text or a list of pairs (second, text), and any
            of `RowOptions` and `seed`. Empty lines are no rows, but count.
        out: The folder, a new or empty one or that of an earlier call.
        seed: The seed of row 0 if it has none; row n has n more.
        batch_size: The most clips that are drawn at a time. Rows that differ in more than their prompts and seeds are
            drawn one after the other.
        save_state: Whether the sessions of the clips are saved beside them.
        ray: Where the rows are drawn with Ray, by processes that load the model on devices like that of `generator`;
            this process draws them unless given.
        options: The options of rows that do not have them.

    Raises:
        ReelmError: An option is refused, the file cannot be read, or the folder holds something else or clips of
            another model; or Ray cannot be used. What is wrong with a row is its result, and raises nothing.
    """
    require(type(batch_size) is int and batch_size >= 1, "batch_size", "must be at least 1", batch_size)
    require(type(seed) is int and seed >= 0, "seed", "must be at least 0", seed)
    check_folder(out, KIND)
    made_by = _made_by(generator)
    require(options_of(out) in ({}, made_by), "model", "must be that of the clips in the folder", generator.parts.name)
    rows = read_rows(prompts, seed=seed, options=options)
    mark_folder(out, KIND, made_by)
    log, wanted = LineLog(out / RESULTS), {row.identity for row in rows}
    found = {entry["identity"]: entry for entry in log.entries if _is_done(out, entry, save_state=save_state)}
    results = {identity: entry for identity, entry in found.items() if identity in wanted}
    log.replace([*results.values()])
    missing = [row for row in rows if row.identity not in results]
    groups = chunks(missing, batch_size)
    if ray is None:
        drawn = _draw_here(_Drawer(generator, out, keep_state=save_state), groups)
    else:
        drawn = _draw_on_ray(generator, out.absolute(), groups, ray, keep_state=save_state)
    for entry in progress(drawn, "drawing", unit="row", total=len(missing)):
        results[entry["identity"]] = entry
        log.add(entry)
    refused = {row.number: results[row.identity]["error"] for row in rows if "error" in results[row.identity]}
    return PromptsReport(out, len(rows), len(rows) - len(missing), refused)


def _made_by(generator: VideoGenerator) -> Json:
    """Return what the clips of a folder have in common."""
    parts = generator.parts
    numerics: Json = {"dtype": str(parts.lm.numerics.dtype), **parts.lm.numerics.precisions}
    return {"language_model": parts.lm_id, "tokenizer": parts.tokenizer_id, **numerics}


def _is_done(out: Path, entry: Mapping[str, Any], *, save_state: bool) -> bool:
    """Return whether the files of a result are there, or it is a reason that the same call would give again."""
    if "file" not in entry:
        return not entry["again"]
    clip = out / entry["file"]
    return clip.is_file() and (not save_state or clip.with_name(clip.stem + SESSION).is_file())


def _draw_here(drawer: "_Drawer", groups: list[list[Row]]) -> Iterator[Entry]:
    for rows in groups:
        yield from drawer.entries(rows)


def _draw_on_ray(
    generator: VideoGenerator, out: Path, groups: list[list[Row]], ray: RayOptions, *, keep_state: bool
) -> Iterator[Entry]:
    """Yield the results of rows that processes of Ray draw; those that end a process with others are drawn alone."""
    origin, kind = generator.parts.origin, generator.parts.lm.device.type
    require(origin is not None, "model", "must be loaded from a checkpoint for Ray", generator.parts.name)
    assert origin is not None
    make = functools.partial(_load_drawer, *origin, kind, _made_by(generator), out, keep_state=keep_state)
    alone: list[list[Row]] = []
    for number, result in run_on_ray(make, groups, ray, on_gpu=kind == "cuda"):
        rows = groups[number]
        if not isinstance(result, Died):
            yield from (made_file(out / entry["file"], entry) if "file" in entry else entry for entry in result)
        elif len(rows) > 1:
            alone += [[row] for row in rows]
        else:
            yield _entry(rows[0], _Refusal(f"row: must not end its process, as it did {MOST_STARTS} times", again=True))
    if alone:
        yield from _draw_on_ray(generator, out, alone, ray, keep_state=keep_state)


def _load_drawer(
    model: str, hub: HubOptions, device: str, made_by: Mapping[str, Any], out: Path, *, keep_state: bool
) -> "_Drawer":
    """Return what draws rows in a process of Ray, after a check that the model is that of the command."""
    numerics = {name: made_by[name] for name in ("dtype", "weights", "cache")}
    numerics["dtype"] = numerics["dtype"].removeprefix("torch.")
    generator = VideoGenerator.from_pretrained(model, device=device, **numerics, **hub)
    found = _made_by(generator)
    require(found == made_by, "model", f"must be the same on all machines, {dict(made_by)}", found)
    return _Drawer(generator, out, keep_state=keep_state)


@dataclass(frozen=True)
class _Refusal:
    """Why a row is refused, and whether another call may draw it, as where memory is short now."""

    reason: str
    again: bool = False


class _Drawer:
    """Draws rows and writes their files."""

    def __init__(self, generator: VideoGenerator, out: Path, *, keep_state: bool) -> None:
        self._generator, self._out, self._keep_state = generator, out, keep_state

    def __call__(self, rows: Sequence[Row]) -> list[Entry]:
        """Return the results of rows that can be drawn in one call."""
        return [*self.entries(rows)]

    def entries(self, rows: Sequence[Row]) -> Iterator[Entry]:
        """Yield the result of each row when its files are written."""
        for row, result in self._draw(rows):
            if isinstance(result, Video):
                if self._keep_state and result.state is not None:
                    result.state.save(self._out / f"{row.stem}{SESSION}")
                result.save(self._out / f"{row.stem}.mp4")
            yield _entry(row, result)

    def _draw(self, rows: Sequence[Row]) -> Iterator[tuple[Row, Video | _Refusal]]:
        """Yield the clip of each row, or the reason for which it is refused."""
        good = []
        for row in rows:
            error = row.error or self._refusal(row)
            if error:
                yield row, _Refusal(error)
            else:
                good.append(row)
        if not good:
            return
        options = {name: value for name, value in good[0].options.items() if name != "seed"}
        prompts, seeds = [row.prompt for row in good], [row.options["seed"] for row in good]
        try:
            videos = self._generator.generate(prompts, seed=seeds, keep_state=self._keep_state, **options)
        except ReelmError as error:
            if len(good) == 1:
                yield good[0], _Refusal(str(error), again=True)
                return
            for half in (good[: len(good) // 2], good[len(good) // 2 :]):  # memory may be short for all at a time
                yield from self._draw(half)
            return
        yield from zip(good, videos, strict=True)

    def _refusal(self, row: Row) -> str:
        """Return why the config of the model refuses a row, or nothing."""
        try:
            read_request(self._generator.parts.config, "generate", row.prompt, row.options)
        except ReelmError as error:
            return str(error)
        return ""


def _entry(row: Row, result: Video | _Refusal) -> Entry:
    entry = {"row": row.number, "identity": row.identity}
    if isinstance(result, _Refusal):
        return {**entry, "error": result.reason, "again": result.again}
    assert result.tokens is not None
    digest = hashlib.sha256(result.tokens.astype("<i8").tobytes()).hexdigest()
    return {**entry, "file": f"{row.stem}.mp4", "prompt": row.prompt, **row.options, "frames": len(result.frames),
            "fps": result.fps, "tokens_sha256": digest}  # fmt: skip
