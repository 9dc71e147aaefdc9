"""The command line: a table of the commands, the parser, and the exit codes.

reelm generate "a red ball rolls to the right over grass" --seconds 2 --seed 7 -o ball.mp4
reelm continue ball.mp4 --seconds 4 -o longer.mp4
"""

import os
import sys
from collections.abc import Sequence

import tyro

from . import __version__
from .commands.base import Command
from .commands.bench import Bench, BenchKernels, BenchTokenizer
from .commands.clips import Continue, Decode, Generate, Stream
from .commands.data import Encode, Prepare
from .commands.evaluate import Evaluate, EvaluateModel, EvaluateTokenizer
from .commands.info import Info
from .commands.train import Render, TrainText, TrainTokenizer
from .commands.train_lm import TrainLM
from .core.errors import ReelmError, require

# A name that begins another one comes after it, so that the longer name is found first.
COMMANDS: dict[str, type[Command]] = {
    "generate": Generate,
    "continue": Continue,
    "stream": Stream,
    "decode": Decode,
    "bench kernels": BenchKernels,
    "bench tokenizer": BenchTokenizer,
    "bench": Bench,
    "evaluate tokenizer": EvaluateTokenizer,
    "evaluate model": EvaluateModel,
    "evaluate": Evaluate,
    "info": Info,
    "prepare": Prepare,
    "encode": Encode,
    "train tokenizer": TrainTokenizer,
    "render": Render,
    "train text": TrainText,
    "train lm": TrainLM,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: The words after `reelm`; those of this process unless given.

    Returns:
        0 after success; 1 after a benchmark with a wrong row; 2 after an error of reelm or of the system; 3 after
        `prepare` if some clips could not be used; 130 after Ctrl-C, and 128 + the signal after another signal that ends
        a stream; 141, as from a shell, after writing to a closed pipe, as in `reelm --help | head -1`, without a
        message.
    """
    try:
        code = _run(sys.argv[1:] if arguments is None else list(arguments))
        print(end="", flush=True)  # flush here, where a closed pipe is caught
        return code
    except BrokenPipeError:
        # The interpreter flushes stdout again when it exits, and would report the closed pipe then.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        return 141


def _run(words: list[str]) -> int:
    try:
        name = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)
        if name is not None:
            return _parse(name, words[len(name.split()) :]).run()
        if words == ["--version"]:
            print(f"reelm {__version__}")
            return 0
        if words and not {"-h", "--help"} & set(words):
            require(False, "command", f"must be one of {', '.join(COMMANDS)}", " ".join(words[:2]))
        print(_contents())
        return 0
    except SystemExit as exit_request:  # from the parser, which has printed its message
        return exit_request.code if isinstance(exit_request.code, int) else 0
    except KeyboardInterrupt:
        print("reelm: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # always from stdout, because reelm writes to no other pipe
        raise
    except (ReelmError, OSError) as error:
        print("reelm: error:", " ".join(str(error).split()), file=sys.stderr)
        return 2


def _parse(name: str, words: list[str]) -> Command:
    command = COMMANDS[name]
    try:
        return tyro.cli(command, prog=f"reelm {name}", args=words, config=[tyro.conf.FlagCreatePairsOff])
    except SystemExit as exit_request:
        if not exit_request.code:  # the parser has printed the help
            print(f"example:\n  {command.example}")
        raise


def _contents() -> str:
    lines = [f"  {name:20}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join([
        "usage: reelm COMMAND [OPTIONS]", "", "Video, one discrete token at a time.", "", "commands:", *lines, "",
        "reelm COMMAND --help lists the options of a command; reelm --version prints the version.", "",
        "example:", f"  {Generate.example}",
    ])  # fmt: skip
