"""A server that runs until it is stopped: the models, the jobs and the application, at an address.

serve(["world"], port=8000, out=Path("reelm-clips"))
"""

import contextlib
import gc
import ipaddress
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from ..core.errors import ReelmError, require
from ..core.progress import note
from ..core.signals import stop_signals
from ..generation.generator import VideoGenerator
from .app import make_app
from .job_store import JobStore
from .jobs import Jobs
from .limits import Limits

GRACE_SECONDS = 5  # for answers under way
LEAST_TOKEN = 16  # characters


def serve(
    model: Sequence[str] = ("world",),
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    out: Path = Path("reelm-clips"),
    token: str | None = None,
    device: str = "auto",
    limits: Limits | None = None,
    say: Callable[[str], object] = note,
) -> int:
    """Serve models until SIGINT or SIGTERM. Python's garbage collector leaves alone what was there before, meanwhile.

    Args:
        model: The names of bundled models, checkpoint folders or hub ids.
        host: The address to listen at.
        port: The port; 0 takes a free one.
        out: The folder for clips and jobs.
        token: What requests have to bring along, or a file that holds it.
        device: The device: auto, cpu or cuda[:n].
        limits: The limits; those of `Limits` unless given.
        say: What is called with the line that says where it serves, and with that of the end.

    Returns:
        The exit code 0.

    Raises:
        ReelmError: A model cannot be loaded, the address needs a token or is in use, or the folder is of another use.
    """
    secret = _read_token(token)
    local = _is_local(host)
    require(local or secret is not None, "token", f"must be given for {host}, which others can reach", None)
    require(len(model) > 0, "model", "must be at least one", model)
    with _listen(host, port) as listening:
        names = _load(model, device)
        gc.collect()
        gc.freeze()  # what is there by now stays: looking for garbage after each clip takes milliseconds, not 0.2 s
        jobs = Jobs(names, JobStore(out), limits or Limits())
        try:
            going_on = jobs.recover()
            hosts = ("localhost", "127.0.0.1", "::1", host) if local else ("*",)
            config = uvicorn.Config(
                make_app(jobs, hosts=hosts, token=secret), log_level="warning", access_log=False, server_header=False,
                ws_per_message_deflate=False, ws_max_size=2**16, timeout_graceful_shutdown=GRACE_SECONDS,
            )  # fmt: skip
            again = f", {going_on} clips go on" if going_on else ""
            say(f"reelm serves {', '.join(names)} at http://{_shown(host)}:{listening.getsockname()[1]}/{again}")
            with stop_signals():  # to which uvicorn gives the signal that has ended it
                uvicorn.Server(config).run([listening])
        finally:
            gc.unfreeze()
            waiting = jobs.close()
    say(f"stopped; {waiting} clips go on when it is started again" if waiting else "stopped")
    return 0


def _load(model: Sequence[str], device: str) -> dict[str, VideoGenerator]:
    """Return the models by their names."""
    names: dict[str, VideoGenerator] = {}
    for each in model:
        generator = VideoGenerator.from_pretrained(each, device=device)
        require(generator.parts.name not in names, "model", "must have names that differ", generator.parts.name)
        names[generator.parts.name] = generator
    return names


def _read_token(token: str | None) -> str | None:
    """Return the token, or what the file of this name holds."""
    if token is None:
        return None
    secret = token
    with contextlib.suppress(OSError, ValueError):  # a name that no file can have
        if Path(token).is_file():
            secret = Path(token).read_text().strip()
    require(len(secret) >= LEAST_TOKEN, "token", f"must have at least {LEAST_TOKEN} characters", f"{len(secret)}")
    return secret


def _is_local(host: str) -> bool:
    """Return whether an address is of this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address."""
    require(0 <= port < 2**16, "port", "must be from 0 to 65535", port)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ReelmError(f"host, port: must be an address that is free, got {host}:{port} ({error})") from error


def _shown(host: str) -> str:
    """Return an address as it is written in a URL."""
    return f"[{host}]" if ":" in host else host
