"""The rows of a file of prompts, each line a JSON object with a prompt and options of `generate`.

for chunk in chunks(read_rows(Path("prompts.jsonl"), seed=0, options={}), 8):
    ...                                             # up to 8 rows that can be drawn in one call
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from ..core.errors import ReelmError, require
from ..core.files import as_path
from ..core.plain_values import to_python
from .json_request import check_json_options, read_json_prompt


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


def read_rows(prompts: Path, *, seed: int, options: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a file of prompts; see `draw_prompts` (prompt_file.py).

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


def chunks(rows: Sequence[Row], batch_size: int) -> list[list[Row]]:
    """Return the rows in groups that can each be drawn in one call."""
    groups = dict[str, list[Row]]()
    for row in rows:
        groups.setdefault(row.peers, []).append(row)
    return [group[at : at + batch_size] for group in groups.values() for at in range(0, len(group), batch_size)]
