"""The parser of the command line: every kind of error is one line that names option, rule and value."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from reelm.commands.parser import CommandParser, Option
from reelm.core.errors import ReelmError


@dataclass(frozen=True)
class Inner:
    """How deep it is.

    Attributes:
        levels: Some numbers, 5% of them large.
        kind: Its kind.
    """

    levels: tuple[int, ...] = (4, 4)
    kind: Literal["fsq", "vq"] = "fsq"


@dataclass(frozen=True, kw_only=True)
class Base:
    """Options of all.

    Attributes:
        seed: A seed.
        top: A number, or none.
    """

    seed: int | None = None
    top: int | None = 7


@dataclass(frozen=True, kw_only=True)
class Command(Base):
    """Do a thing.

    More about it.

    Attributes:
        prompt: The text.
        out: The file.
        quick, loud: A switch.
        detail: Keep the detail.
        then: A change.
        size: Two numbers.
        model: The sizes.
        more: More sizes.
    """

    prompt: Annotated[str, Option(positional=True)]
    out: Annotated[Path, Option(short="-o")]
    quick: bool = False
    loud: bool = False
    detail: bool = True
    then: Annotated[tuple[str, ...], Option(repeatable=True)] = ()
    size: tuple[int, int] = (1, 2)
    model: Inner = Inner()
    more: Annotated[Any, Option(group=lambda: Inner, prefixed=False)]


PARSER = CommandParser("reelm do", Command, "the end")


def test_words_become_the_fields():
    assert PARSER.parse(["a ball", "-o", "x"]) == Command(prompt="a ball", out=Path("x"), more=Inner())
    words = ["--then", "4: a", "--no-detail", "--quick", "--then", "-1: b", "-ox", "--seed=-3", "--top", "None", "a"]
    words += ["--size", "3", "4", "--model.levels", "8", "8", "8", "--levels", "2", "--model.kind", "vq"]
    wanted = Command(
        prompt="a", out=Path("x"), quick=True, detail=False, then=("4: a", "-1: b"), seed=-3, top=None, size=(3, 4),
        model=Inner((8, 8, 8), "vq"), more=Inner((2,)),
    )  # fmt: skip
    assert PARSER.parse(words) == wanted
    assert PARSER.parse(["-o", "x", "--", "--quick"]).prompt == "--quick"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a -o x --sead 3", "--sead: is no option of reelm do; did you mean --seed?"),
        ("a -o x --no_detail", "--no_detail: is no option of reelm do; did you mean --no-detail?"),
        ("a -o x --no-quik", "--no-quik: is no option of reelm do; did you mean --no-quick?"),
        ("a -o x --model.kinds vq", "--model.kinds: is no option of reelm do; did you mean --model.kind?"),
        ("a -o x --frobnicate=3", "--frobnicate: is no option of reelm do; reelm do --help lists them"),
        ("a -o x -q", "-q: is no option of reelm do; reelm do --help lists them"),
        ("--sead 3", "--sead: is no option of reelm do; did you mean --seed?"),
        ("a -o x --seed", "--seed: must be followed by a value"),
        ("a -o", "-o/--out: must be followed by a value"),
        ("a -o x --seed --quick", "--seed: must be followed by a value"),
        ("a -o x --model.levels", "--model.levels: must be followed by a value, or several"),
        ("a -o x --size 1", "--size: must be followed by 2 values"),
        ("a -o x --seed 1.5", "--seed: must be a whole number, got '1.5'"),
        ("a -o x --top x", "--top: must be a whole number or none, got 'x'"),
        ("a -o x --model.levels 4 x", "--model.levels: must be a whole number, got 'x'"),
        ("a -o x --model.kind lfq", "--model.kind: must be one of fsq, vq, got 'lfq'"),
        ("a -o x --quick=3", "--quick: is a switch and takes no value, got '3'"),
        ("", "PROMPT, -o/--out: must be given; reelm do --help describes it"),
        ("a red ball -o x", "reelm do [OPTIONS] PROMPT: must have no more words, got 'red', 'ball'; put quotes around"),
        ("a -o x --se 3", "--se: is no option of reelm do; did you mean --seed?"),
    ],
)
def test_what_is_wrong_is_one_line(words, message):
    with pytest.raises(ReelmError) as error:
        PARSER.parse(words.split())
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_the_help_is_for_people():
    text = PARSER.help()
    lines = " ".join(text.split())
    assert text.startswith("usage: reelm do [OPTIONS] PROMPT\n\nDo a thing.\n\nMore about it.\n")
    assert text.endswith("\n\nthe end")
    for entry in (
        "options: PROMPT The text. (required)",
        "-o PATH, --out PATH The file. (required)",
        "--quick A switch. --loud A switch.",
        "--detail, --no-detail Keep the detail. (default: --detail)",
        "--then TEXT A change. (repeatable)",
        "--size INT INT Two numbers. (default: 1 2)",
        "options of all: --seed INT A seed. --top INT|none A number, or none. (default: 7)",
        "the sizes: --model.levels INT [INT ...] Some numbers, 5% of them large. (default: 4 4)",
        "--model.kind {fsq,vq} Its kind. (default: fsq)",
        "more sizes: --levels INT",
    ):
        assert entry in lines, entry
