"""The command line: exit codes and one-line errors around `commands/dispatch.py`, which has the table of the commands.

reelm generate "a red ball rolls to the right over grass" --seconds 2 --seed 7 -o ball.mp4
reelm continue ball.mp4 --seconds 4 -o longer.mp4
"""

import atexit
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Sequence

from .core.errors import ReelmError
from .core.progress import note
from .core.signals import SIGNALS, raised_signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: The words after `reelm`; those of this process unless given.

    Returns:
        0 after success; 1 after a benchmark with a wrong row; 2 after an error of reelm or of the system; 3 after
        `prepare` if some clips could not be used; 128 + the signal after Ctrl-C (130) or SIGTERM (143), also where the
        command kept what it had; 141, as from a shell, after writing to a closed pipe, as in `reelm --help | head -1`,
        without a message.
    """
    with raised_signals() as caught:
        try:
            code = _run(sys.argv[1:] if arguments is None else list(arguments))
            print(end="", flush=True)  # flush here, where a closed pipe is caught
        except BrokenPipeError:
            # The interpreter flushes stdout again when it exits, and would report the closed pipe then.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            code = 141
        except BaseException as error:
            # Where a signal comes while a module is imported, some modules raise another exception in its place.
            if not (caught or isinstance(error, KeyboardInterrupt)):
                raise
            note("reelm: interrupted")
            code = 130
    return 128 + caught[0] if caught else code


def script() -> None:
    """End this process with the exit code of `main`: the entry point of the command `reelm`."""
    # Imports make a quarter of a million objects that stay. With Python's default, which looks for garbage after every
    # 700 of them, it would look at all of them again and again, for 0.2 s.
    gc.set_threshold(10_000)
    code = main()
    # Nothing may interrupt what modules do at exit.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    # The interpreter is not taken down: that takes 0.4 s after an import of torch, and changes nothing outside. (A
    # profiler that reports at the end of a process is given `main` in place of this function.)
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        print(end="", flush=True)
    os._exit(code)


def _run(words: list[str]) -> int:
    # Imported here, so that an interrupt while modules are imported ends the command like any other.
    from .commands.dispatch import run

    try:
        return run(words)
    except BrokenPipeError:  # always from stdout: `note` ignores that of stderr, and reelm writes to no other pipe
        raise
    except (ReelmError, OSError) as error:
        note(f"reelm: error: {' '.join(str(error).split())}")
        return 2
