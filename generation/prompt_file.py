"""Clips of a file of prompts, each line a JSON object with a prompt and options of `generate`.

    report = draw_prompts(generator, Path("prompts.jsonl"), Path("clips"), batch_size=8)
    print(report.rows, report.refused)

The folder gets a clip for each row, and results.jsonl: for each row its number, its seed and the hash of its tokens, or
the reason for which it was refused. The same call again draws what is missing alone: rows that are finished, by their
lines and contents, are left as they are, and so are clips of rows that were changed since. A row gives the clip that
`generate` gives with its prompt, options and seed alone.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from ..core.errors import ReelmError, require
from ..core.files import as_path
from ..core.folders import FolderKind, check_folder, mark_folder, options_of
from ..core.json_values import Json
from ..core.log import LineLog
from ..core.plain_values import to_python
from ..core.progress import progress
from .generator import VideoGenerator
from .json_request import check_json_options, read_json_prompt
from .request import read_request
from .video import Video

KIND: FolderKind = "clips of prompts"
RESULTS, SESSION = "results.jsonl", ".session.safetensors"


class RowOptions(TypedDict, total=False):
    """The options of `generate` that rows may have, beside a seed."""

    seconds: float
    num_frames: int
    negative_prompt: str
    guidance_scale: float
    guidance: str
    temperature: float
    top_k: int | None
    top_p: float
    min_p: float
    decoder: str
    block_size: int
    keys: str


ROW_OPTIONS = frozenset(RowOptions.__annotations__) | {"seed"}
LENGTHS = frozenset({"seconds", "num_frames", "keys"})  # a row that has one of them has its own length


@dataclass(frozen=True)
class Row:
    """A row of a file of prompts.

    Attributes:
        number: Its line in the file, from 0.
        prompt: The prompt, as `generate` takes it.
        options: The options of `generate`, with the seed.
        error: Why it is refused, or nothing.
        identity: A hash of all this, by which its result is found again.
    """

    number: int
    prompt: Any
    options: dict[str, Any]
    error: str
    identity: str

    @property
    def stem(self) -> str:
        """The name of its files."""
        return f"{self.number:06d}-{self.identity[:8]}"

    @property
    def peers(self) -> str:
        """A text that is the same for rows that can be drawn in one call."""
        return json.dumps({name: value for name, value in self.options.items() if name != "seed"}, sort_keys=True)


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
        options: The options of rows that do not have them.

    Raises:
        ReelmError: An option is refused, the file cannot be read, or the folder holds something else or clips of
            another model. What is wrong with a row is its result, and raises nothing.
    """
    require(type(batch_size) is int and batch_size >= 1, "batch_size", "must be at least 1", batch_size)
    require(type(seed) is int and seed >= 0, "seed", "must be at least 0", seed)
    check_folder(out, KIND)
    parts = generator.parts
    numerics: Json = {"dtype": str(parts.lm.numerics.dtype), **parts.lm.numerics.precisions}
    made_by: Json = {"language_model": parts.lm_id, "tokenizer": parts.tokenizer_id, **numerics}
    require(options_of(out) in ({}, made_by), "model", "must be that of the clips in the folder", parts.name)
    rows = read_rows(prompts, seed=seed, options=options)
    mark_folder(out, KIND, made_by)
    log, wanted = LineLog(out / RESULTS), {row.identity for row in rows}
    found = {entry["identity"]: entry for entry in log.entries if _is_done(out, entry, save_state=save_state)}
    results = {identity: entry for identity, entry in found.items() if identity in wanted}
    log.replace([*results.values()])
    missing = [row for row in rows if row.identity not in results]
    for chunk in progress(_chunks(missing, batch_size), "drawing", unit="batch"):
        for row, result in _draw(generator, chunk, keep_state=save_state):
            if isinstance(result, Video):
                if save_state and result.state is not None:
                    result.state.save(out / f"{row.stem}{SESSION}")
                result.save(out / f"{row.stem}.mp4")
            results[row.identity] = _entry(row, result)
            log.add(results[row.identity])
    refused = {row.number: results[row.identity]["error"] for row in rows if "error" in results[row.identity]}
    return PromptsReport(out, len(rows), len(rows) - len(missing), refused)


def read_rows(prompts: Path, *, seed: int, options: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a file of prompts; see `draw_prompts`.

    Raises:
        ReelmError: The file cannot be read, or has no row.
    """
    try:
        lines = as_path(prompts, "prompts").read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ReelmError(f"prompts: must be a text file that can be read, got {str(prompts)!r}: {error}") from error
    common = {name: to_python(value) for name, value in options.items()}
    rows = [_row(number, line, seed, common) for number, line in enumerate(lines) if line.strip()]
    require(bool(rows), "prompts", "must have a row", str(prompts))
    return rows


def _row(number: int, line: str, seed: int, options: Mapping[str, Any]) -> Row:
    try:
        values = json.loads(line)
        require(isinstance(values, dict) and "prompt" in values, "row", "must be an object with a prompt", line)
        prompt = read_json_prompt(values.pop("prompt"))
        require(prompt is not None, "prompt", "must be a text or a list of pairs (second, text)", prompt)
        check_json_options(values, ROW_OPTIONS)
    except (ValueError, RecursionError) as error:
        told = str(error) if isinstance(error, ReelmError) else f"row: must be JSON: {error}"
        return Row(number, None, {}, told, _identity(number, line))
    given = {name: value for name, value in values.items() if value is not None or name == "top_k"}  # it may be None
    common = {name: value for name, value in options.items() if name not in LENGTHS or LENGTHS.isdisjoint(given)}
    chosen = {"seed": seed + number, **common, **given}
    return Row(number, prompt, chosen, "", _identity(number, [prompt, chosen]))


def _identity(number: int, values: object) -> str:
    return hashlib.sha256(json.dumps([number, values], sort_keys=True).encode()).hexdigest()[:16]


def _is_done(out: Path, entry: Mapping[str, Any], *, save_state: bool) -> bool:
    """Return whether the files of a result are there, or it is a reason that the same call would give again."""
    if "file" not in entry:
        return not entry["again"]
    clip = out / entry["file"]
    return clip.is_file() and (not save_state or clip.with_name(clip.stem + SESSION).is_file())


def _chunks(rows: Sequence[Row], batch_size: int) -> list[list[Row]]:
    """Return the rows in groups that can each be drawn in one call."""
    groups = dict[str, list[Row]]()
    for row in rows:
        groups.setdefault(row.peers, []).append(row)
    return [group[at : at + batch_size] for group in groups.values() for at in range(0, len(group), batch_size)]


class _Reason(str):
    """Why a row is refused.

    Attributes:
        again: Whether another call may draw it, as where memory is short now.
    """

    again = False


def _draw(generator: VideoGenerator, rows: Sequence[Row], *, keep_state: bool) -> Iterator[tuple[Row, Video | _Reason]]:
    """Yield the clip of each row, or the reason for which it is refused."""
    good = []
    for row in rows:
        error = row.error or _refusal(generator, row)
        if error:
            yield row, _Reason(error)
        else:
            good.append(row)
    if not good:
        return
    options = {name: value for name, value in good[0].options.items() if name != "seed"}
    try:
        videos = generator.generate(
            [row.prompt for row in good], seed=[row.options["seed"] for row in good], keep_state=keep_state, **options
        )
    except ReelmError as error:
        if len(good) == 1:
            reason = _Reason(error)
            reason.again = True
            yield good[0], reason
            return
        for half in (good[: len(good) // 2], good[len(good) // 2 :]):  # memory may be short for all of them at a time
            yield from _draw(generator, half, keep_state=keep_state)
        return
    yield from zip(good, videos, strict=True)


def _refusal(generator: VideoGenerator, row: Row) -> str:
    """Return why the config of the model refuses a row, or nothing."""
    try:
        read_request(generator.parts.config, "generate", row.prompt, row.options)
    except ReelmError as error:
        return str(error)
    return ""


def _entry(row: Row, result: Video | _Reason) -> dict[str, Any]:
    entry = {"row": row.number, "identity": row.identity}
    if isinstance(result, _Reason):
        return {**entry, "error": str(result), "again": result.again}
    assert result.tokens is not None
    digest = hashlib.sha256(result.tokens.astype("<i8").tobytes()).hexdigest()
    return {**entry, "file": f"{row.stem}.mp4", "prompt": row.prompt, **row.options, "frames": len(result.frames),
            "fps": result.fps, "tokens_sha256": digest}  # fmt: skip
