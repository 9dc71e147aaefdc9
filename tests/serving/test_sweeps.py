"""Long sweeps of a server: viewers that vanish, and requests that are no requests.

REELM_VANISH=1000 REELM_MALFORMED=10000 pytest -m slow tests/serving/test_sweeps.py -s
"""

import json
import os
import random
import resource
import socket
import struct
import time

import pytest
from websockets.sync.client import connect

from reelm.serving.client import Client

RESET = struct.pack("ii", 1, 0)  # a connection that is closed so says no goodbye
VANISH, MALFORMED = int(os.environ.get("REELM_VANISH", 100)), int(os.environ.get("REELM_MALFORMED", 2000))
pytestmark = pytest.mark.slow


@pytest.fixture
def address(make_jobs):
    """The address of a server in this process."""
    from reelm.tests.serving.test_page import Server

    server = Server(make_jobs())
    yield server.start()
    server.stop()


def test_viewers_that_vanish_leave_no_socket_and_no_row(address, make_jobs):
    client, choose = Client(address), random.Random(0)
    for number in range(VANISH):
        endless = bool(choose.getrandbits(1))
        options = {"endless": True} if endless else {"live": True, "num_frames": 401}
        job = client.create("a red ball", seed=number, guidance_scale=1.0, **options)
        with connect(f"{address.replace('http', 'ws', 1)}v1/videos/{job['id']}/stream", max_size=None) as viewer:
            for _ in range(choose.randrange(1, 6)):
                viewer.recv()
            viewer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            viewer.socket.shutdown(socket.SHUT_RDWR)
        client.delete(job["id"])
    for _ in range(500):
        left = client.metric("reelm_sockets_open"), client.metric("reelm_jobs_running")
        if left == (0, 0):
            break
        time.sleep(0.01)
    before = client.metric("reelm_passes_total")
    time.sleep(0.5)
    print(f"\n{VANISH} viewers vanished: sockets and jobs left {left}")
    assert left == (0, 0) and client.metric("reelm_passes_total") == before


PIECES = ["", "/", "..", "%2e%2e", "\\", "video_" + "a" * 22, "video_", "%00", "é", "a" * 3000, "*", "{identity}", "-1"]
VALUES = [None, True, -1, 0, 2**70, 1e308, "", "a red ball", "\ud800", [], {}, [[0, 1]], [[0, "a"], [1]], {"a": {}},
          "NaN", "9" * 400, ["x"] * 50, "64x64", "0x0", "a-3", "none-1000000," * 3]  # fmt: skip
NAMES = ["prompt", "model", "seconds", "num_frames", "size", "seed", "guidance_scale", "temperature", "top_k", "top_p",
         "min_p", "decoder", "block_size", "keys", "fit", "live", "endless", "frames", "guidance", "negative_prompt",
         "x", "width", "height", ""]  # fmt: skip
KINDS = ["application/json", "multipart/form-data; boundary=x", "multipart/form-data", "text/plain", "",
         "application/json;x", "multipart/form-data; boundary=x; charset=utf-7"]  # fmt: skip


def malformed(choose):
    """A request that is mostly none: its method, path, headers and body."""
    path = choose.choice(["/", "/v1/videos", "/v1/score", "/health", "/metrics", "/page/", "/openapi.json", "/v1/play"])
    if choose.random() < 0.5:
        path = f"/v1/videos/{choose.choice(PIECES)}/{choose.choice(['content', 'extend', 'stream', '', *PIECES])}"
    if choose.random() < 0.3:
        path += f"?{choose.choice(['limit', 'after', 'order', 'format', 'tokens', 'x'])}={choose.choice(PIECES)}"
    values = {choose.choice(NAMES): choose.choice(VALUES) for _ in range(choose.randrange(5))}
    kind = choose.choice(KINDS)
    if "form-data" in kind:
        name, file = choose.choice(NAMES), choose.choice(['; filename="a.png"', '; filename="a.exe"', ""])
        head = f'--x\r\nContent-Disposition: form-data; name="{name}"{file}'
        body = f"{head}\r\n\r\n{choose.choice(VALUES)}\r\n--x--".encode(errors="replace")
    else:
        body = json.dumps(values).encode()
    if choose.random() < 0.3:
        at = choose.randrange(len(body) + 1)
        body = body[:at] + choose.randbytes(choose.randrange(20)) + body[at + choose.randrange(9) :]
    headers = {"content-type": kind}
    if choose.random() < 0.2:
        headers[choose.choice(["range", "host", "origin", "authorization", "content-length"])] = choose.choice(
            ["bytes=0-", "bytes=9-1", "bytes=a", "[", "http://[", "-1", "1e9", "x" * 500]
        )
    return choose.choice(["GET", "POST", "DELETE", "PUT", "HEAD", "OPTIONS", "PATCH"]), path, headers, body


def test_malformed_requests_are_refused_without_a_trace(client):
    choose, answers = random.Random(0), {}

    def send(count):
        for _ in range(count):
            method, path, headers, body = malformed(choose)
            try:
                answer = client.request(method, path, headers=headers, content=body)
            except (UnicodeError, ValueError):
                continue  # the client itself refuses to send it
            answers[answer.status_code] = answers.get(answer.status_code, 0) + 1
            assert answer.status_code < 500, (method, path, headers, body, answer.text)
            assert "Traceback" not in answer.text and str(client.jobs.store.uploads) not in answer.text
            for job in client.get("/v1/videos").json()["data"]:  # those few that were requests after all
                client.delete(f"/v1/videos/{job['id']}")

    send(MALFORMED // 2)
    half = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    send(MALFORMED - MALFORMED // 2)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / half - 1
    print(f"\n{sum(answers.values())} malformed requests: {dict(sorted(answers.items()))}, memory +{grown:.1%}")
    assert grown < 0.05 and [*client.jobs.store.uploads.iterdir()] == []
