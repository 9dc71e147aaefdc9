"""The table of the commands, and what is done with the words after `reelm`: a command, or help, or a refusal.

code = run(["generate", "a red ball", "--seconds", "2"])
"""

import difflib
from collections.abc import Sequence
from typing import NoReturn

from .. import __version__
from ..core.errors import ReelmError
from .base import Command, RunCommand
from .bench import Bench, BenchBlocks, BenchKernels, BenchStartup, BenchTokenizer
from .clips import Continue, Decode, Generate, Stream
from .convert import Convert
from .data import Encode, Prepare
from .evaluate import Evaluate, EvaluateModel, EvaluatePlay, EvaluateTokenizer
from .info import Info
from .option_file import with_file
from .parser import CommandParser
from .player import Play
from .serve import Serve
from .train import Render, TrainText, TrainTokenizer
from .train_lm import TrainLM

# A name that begins another one comes after it, so that the longer name is found first.
COMMANDS: dict[str, type[Command]] = {
    "generate": Generate,
    "continue": Continue,
    "stream": Stream,
    "decode": Decode,
    "play": Play,
    "serve": Serve,
    "bench kernels": BenchKernels,
    "bench tokenizer": BenchTokenizer,
    "bench startup": BenchStartup,
    "bench blocks": BenchBlocks,
    "bench": Bench,
    "evaluate tokenizer": EvaluateTokenizer,
    "evaluate model": EvaluateModel,
    "evaluate play": EvaluatePlay,
    "evaluate": Evaluate,
    "info": Info,
    "prepare": Prepare,
    "encode": Encode,
    "convert": Convert,
    "train tokenizer": TrainTokenizer,
    "render": Render,
    "train text": TrainText,
    "train lm": TrainLM,
}


def run(words: Sequence[str]) -> int:
    """Run the command that these words describe, or print the help that they ask for, and return the exit code.

    Raises:
        ReelmError: The words are no command and its options, or the command refuses what it was given.
    """
    words = list(words)
    if words == ["--version"]:
        print(f"reelm {__version__}")
        return 0
    wants_help = not words or bool({"-h", "--help"} & set(words))
    name = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)
    group = [other for other in COMMANDS if words and other.split()[0] == words[0]]
    rest = words[len((name or "").split()) :]
    # The word after `bench` is none of its options, and so meant as the rest of the name of a command.
    if name is None or (len(group) > 1 and name == words[0] and rest and not rest[0].startswith("-")):
        if not wants_help:
            _refuse_command(" ".join(words[:2] if group else words[:1]), group or list(COMMANDS))
        print(_contents(group or list(COMMANDS)))
        return 0
    if wants_help:
        print(_parser(name).help())
        return 0
    return parse(name, rest).run()


def parse(name: str, words: Sequence[str]) -> Command:
    """Return the command of this name with the options in these words; the rest are those of a run that goes on."""
    parser, words = _parser(name), with_file(words) if issubclass(COMMANDS[name], RunCommand) else list(words)
    command = parser.parse(words)
    recorded = command.recorded()
    return command if recorded is None else parser.parse(words, recorded)


def _parser(name: str) -> CommandParser[Command]:
    """Return the parser of a command, whose help ends with the commands below it, if there are some, and an example."""
    below = [other for other in COMMANDS if other.startswith(f"{name} ")]
    also = ["commands below it, with options of their own:", *_rows(below), ""] if below else []
    command = COMMANDS[name]
    return CommandParser(f"reelm {name}", command, "\n".join([*also, "example:", f"  {command.example}"]))


def _refuse_command(given: str, known: list[str]) -> NoReturn:
    similar = difflib.get_close_matches(given, known, n=1)
    hint = f"; did you mean {similar[0]}?" if similar else ""
    raise ReelmError(f"command: must be one of {', '.join(known)}, got {given!r}{hint}")


def _rows(names: list[str]) -> list[str]:
    return [f"  {name:20}{(COMMANDS[name].__doc__ or '').splitlines()[0]}" for name in names]


def _contents(names: list[str]) -> str:
    """Return the list of these commands, all of them or those of one group."""
    group = "" if len(names) == len(COMMANDS) else names[0].split()[0] + " "
    example = COMMANDS[names[0]].example
    return "\n".join([
        f"usage: reelm {group}COMMAND [OPTIONS]", "", *([] if group else ["Video, one discrete token at a time.", ""]),
        "commands:", *_rows(names), "",
        "reelm COMMAND --help lists the options of a command; reelm --version prints the version.", "",
        "example:", f"  {example}",
    ])  # fmt: skip
