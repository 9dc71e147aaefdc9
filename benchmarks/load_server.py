"""Load a server on this machine with viewers, jobs, plays and requests that are no requests, and look at its memory.

    .venv/bin/python benchmarks/load_server.py --minutes 120

Each visitor comes again and again, after pauses of random lengths. Prints a line each minute, and at last the mean
memory of the last quarter of the time over that of the first.
"""

import argparse
import contextlib
import itertools
import json
import random
import socket
import statistics
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from measure_server import PROMPT, server, watch
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from reelm.serving.client import Client, ServerError

Visit = Callable[[Client, random.Random], object]
PROMPTS = (PROMPT, "a blue ring bounces to the left over sand", "a yellow star spins at night")


def asked(choose: random.Random) -> dict[str, object]:
    """Return what a visitor asks for."""
    options: dict[str, object] = {"prompt": choose.choice(PROMPTS), "seed": choose.getrandbits(31)}
    options["seconds"] = choose.choice([1, 2, 4])
    if choose.random() < 0.3:
        options["temperature"] = choose.choice([0.7, 0.9])
    if choose.random() < 0.2:
        options["guidance_scale"] = 1.0
    return options


def view(client: Client, choose: random.Random) -> None:
    """Watch a clip to its end, and now and then continue or delete it."""
    identity = client.create(**asked(choose), live=True)["id"]  # type: ignore[arg-type]
    watch(client, identity)
    if choose.random() < 0.3:
        more = client.extend(identity, seconds=1)["id"]
        client.wait(more)
        client.delete(more)
    client.delete(identity)


def leave_a_job(client: Client, choose: random.Random) -> None:
    """Ask for a clip, fetch it, and mostly delete it."""
    identity = client.create(**asked(choose))["id"]  # type: ignore[arg-type]
    client.wait(identity)
    with tempfile.TemporaryDirectory() as folder:
        for form in ("mp4", "gif", "session"):
            client.fetch(identity, Path(folder) / form, form=form)
    if choose.random() < 0.9:
        client.delete(identity)


def vanish(client: Client, choose: random.Random) -> None:
    """Watch a clip without an end, and go away without a word."""
    identity = client.create(choose.choice(PROMPTS), endless=True)["id"]
    with connect(f"{client.address.replace('http', 'ws', 1)}/v1/videos/{identity}/stream", max_size=None) as viewer:
        for _ in range(choose.randrange(1, 6)):
            viewer.recv()
        viewer.socket.shutdown(socket.SHUT_RDWR)
    client.delete(identity)


def play(client: Client, choose: random.Random) -> None:
    """Play for some seconds, and delete the clip of the play."""
    with connect(f"{client.address.replace('http', 'ws', 1)}/v1/play", max_size=None) as player:
        player.send(json.dumps({"type": "start", "model": "run", "seed": choose.getrandbits(31)}))
        ends, stopped = time.monotonic() + choose.uniform(2, 20), False
        keys: list[str] = []
        for number in itertools.count():
            message = player.recv()
            if isinstance(message, str):
                told = json.loads(message)
                keys = told.get("keys", keys)
                if told["type"] == "end":
                    break
            if not stopped and time.monotonic() > ends:
                stopped = True
                player.send(json.dumps({"type": "stop"}))
            elif number % 8 == 0 and keys and not stopped:
                player.send(json.dumps({"type": "keys", "held": [choose.choice(keys)], "id": number}))
    if told["id"] is not None:
        client.wait(told["id"])
        client.delete(told["id"])


def disturb(client: Client, choose: random.Random) -> None:
    """Send what is refused."""
    path = choose.choice(["/v1/videos", "/v1/score", "/v1/videos/video_x/extend", "/nothing"])
    body = choose.choice([b"{", b'{"seconds": -1}', b'{"prompt": 7}', b"x" * 70000, b'{"prompt": "a", "seconds": 1e9}'])
    request = urllib.request.Request(client.address + path, body, {"content-type": "application/json"}, method="POST")
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=60).read()


VISITS: dict[Visit, float] = {view: 2, leave_a_job: 3, vanish: 5, play: 15, disturb: 0.5}  # mean pauses in seconds


def resident_mib(pid: int) -> float:
    """Return the memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def come_again(
    visit: Visit, pause: float, client: Client, stop: threading.Event, done: Counter[str], seed: int
) -> None:
    """Let a visitor come again and again."""
    choose = random.Random(seed)
    while not stop.wait(choose.expovariate(1 / pause)):
        try:
            visit(client, choose)
            done[visit.__name__] += 1
        except (WebSocketException, OSError, ServerError) as error:
            done[f"{visit.__name__}: {type(error).__name__} {getattr(error, 'status', '')}"] += 1


def minutes(count: int, pid: int, done: Counter[str]) -> Iterator[float]:
    """Yield the mean memory of each minute."""
    for minute in range(count):
        samples = []
        for _ in range(60):
            time.sleep(1)
            samples.append(resident_mib(pid))
        yield statistics.mean(samples)
        print(minute + 1, f"{statistics.mean(samples):.1f} MiB", dict(done), flush=True)


def main() -> None:
    """Load a server, and print what became of its memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=120)
    options = parser.parse_args()
    stop, done = threading.Event(), Counter[str]()
    with server("world", "run") as (client, pid):
        visitors = [
            threading.Thread(target=come_again, args=(visit, pause, client, stop, done, seed), daemon=True)
            for seed, (visit, pause) in enumerate(VISITS.items())
        ]
        for visitor in visitors:
            visitor.start()
        used = [*minutes(options.minutes, pid, done)]
        stop.set()
        for visitor in visitors:
            visitor.join()
    quarter = max(1, len(used) // 4)
    first, last = statistics.mean(used[:quarter]), statistics.mean(used[-quarter:])
    print(json.dumps({"first_mib": first, "last_mib": last, "last_over_first": last / first, "visits": done}))


if __name__ == "__main__":
    main()
