"""A TOML file of the options of a training, in place of words of the command line.

    # recipe.toml                            # the words
    data = "my_clips"                        # --data=my_clips
    [train]
    steps = 2000                             # --train.steps=2000

words = with_file(["--config", "recipe.toml", "--out", "runs/lm"])      # the file first, so that the others win

So a file has the names, the rules and the messages of the command line, and a name that is none is refused there. Its
paths are those of the command line, too: from the current folder on.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import ReelmError, require

FLAG = "--config"


def with_file(words: Sequence[str]) -> list[str]:
    """Return these words after those of the file that they name, if they name one.

    Raises:
        ReelmError: The file cannot be read, or is no TOML of texts, numbers, truth values and lists of these.
    """
    files = []
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == FLAG and (equals or index + 1 < len(words)):
            files.append(Path(value if equals else words[index + 1]))
    require(len(files) < 2, "config", "must be given once", [str(path) for path in files])
    return [*(word for path in files for word in _words(_read(path), "")), *words]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ReelmError(f"config: must be a TOML file that can be read, got {str(path)!r}: {error}") from error


def _words(table: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in table.items():
        name = f"{prefix}{key.replace('_', '-')}"
        require(f"--{name}" != FLAG, "config", "must name no other file of options", value)
        if isinstance(value, dict):
            yield from _words(value, f"{name}.")
        elif isinstance(value, list):
            yield from (f"--{name}", *(_word(name, each) for each in value))
        elif isinstance(value, bool):
            yield f"--{name}" if value else f"--no-{name}"
        else:
            yield f"--{name}={_word(name, value)}"


def _word(name: str, value: object) -> str:
    plain = isinstance(value, str | int | float)
    require(plain, name, "must be a text, a number, true or false, or a list of these, in the file of options", value)
    return str(value)
