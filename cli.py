"""The command line: exit codes and one-line errors around `commands/dispatch.py`, which has the table of the commands.

reelm generate "a red ball rolls to the right over grass" --seconds 2 --seed 7 -o ball.mp4
reelm continue ball.mp4 --seconds 4 -o longer.mp4
"""

import os
import sys
from collections.abc import Sequence

from .core.errors import ReelmError
from .core.progress import note


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
        # Imported here, so that an interrupt while modules are imported ends the command like any other.
        from .commands.dispatch import run
    except KeyboardInterrupt:
        return _interrupted()
    try:
        return run(words)
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:  # always from stdout: `note` ignores that of stderr, and reelm writes to no other pipe
        raise
    except (ReelmError, OSError) as error:
        note(f"reelm: error: {' '.join(str(error).split())}")
        return 2


def _interrupted() -> int:
    note("reelm: interrupted")
    return 130
