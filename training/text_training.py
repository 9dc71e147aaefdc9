"""Training of a language model's text model on captions: `reelm train text` calls it.

report = train_text_model(Path("runs/text.model"), data=Path("runs/tokens"))
report.vocab_size, report.captions
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..core.errors import ReelmError, require
from ..core.files import atomic_write, check_replaceable, check_writable
from ..core.progress import note
from ..data.token_shards import read_shards
from ..lm.text import TextEncoder, train_text, words_of


@dataclass(frozen=True)
class TextReport:
    """The report of training a text model.

    Attributes:
        path: The file of the text model.
        vocab_size: The number of its text ids.
        captions: The number of captions that it was trained on, which is all those that have words.
    """

    path: Path
    vocab_size: int
    captions: int


def train_text_model(
    out: Path,
    *,
    data: Path | None = None,
    captions: Path | None = None,
    vocab_size: int = 256,
    model_type: Literal["word", "unigram", "bpe"] = "word",
) -> TextReport:
    """Train a text model and write its file.

    Args:
        out: The file to write.
        data: A folder of token shards, whose captions are read.
        captions: A text file (UTF-8) with one caption per line, instead of `data`.
        vocab_size: The largest number of text ids.
        model_type: The kind of text model: "word" knows whole words; "unigram" and "bpe" spell new words from pieces.

    Raises:
        ReelmError: `out` cannot be written; not exactly one of `data` and `captions` is given; or `captions` is not
            UTF-8, or no caption has words.
        CheckpointError: `data` holds no token shards.
        OSError: `captions` cannot be read.
    """
    check_replaceable(check_writable(out, "out"), _is_text_model, argument="out")
    given = (data, captions)
    require(given.count(None) == 1, "data, captions", "must be exactly one of the two", [*map(str, given)])
    if data is not None:
        texts = [text for shards in read_shards(data) for listed in shards.captions for text in listed]
    else:
        assert captions is not None
        texts = _read_lines(captions)
    worded = [text for text in texts if words_of(text)]
    if len(worded) < len(texts):
        note(f"{len(texts) - len(worded)} of {len(texts)} captions have no words and are left out")
    model = train_text(worded, vocab_size=vocab_size, model_type=model_type)
    atomic_write(out, model)
    return TextReport(out, TextEncoder(model).vocab_size, len(worded))


def _read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ReelmError(f"captions: must be UTF-8, got another encoding in {path.name!r} ({error})") from error
    return [line for line in text.split("\n") if line.strip()]


def _is_text_model(path: Path) -> bool:
    with contextlib.suppress(ReelmError):
        TextEncoder(path.read_bytes())
        return True
    return False
