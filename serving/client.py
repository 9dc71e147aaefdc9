"""A client of a server: clips that are asked for, waited for, and fetched.

client = Client("http://127.0.0.1:8000", token=None)
job = client.create("a red ball rolls", seconds=2, seed=7)
client.wait(job["id"])
client.fetch(job["id"], Path("ball.mp4"))
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from ..core.errors import ReelmError
from ..core.files import atomic_write

PATIENCE = 60.0  # seconds for which a connection that breaks is tried again, as when a server is started again
PAUSE = 0.1  # seconds


class ServerError(ReelmError):
    """The server has refused a request, or does not answer.

    Attributes:
        status: The status of the answer; 0 for none.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """A client of the server at an address.

    Attributes:
        address: The address, such as "http://127.0.0.1:8000".
    """

    def __init__(self, address: str, *, token: str | None = None) -> None:
        self.address, self._token = address.rstrip("/"), token

    def create(self, prompt: str | None = None, **options: object) -> dict[str, Any]:
        """Ask for a clip, and return what became of it so far.

        Raises:
            ServerError: It is refused; with status 429 the queue is full.
        """
        return self._json("POST", "/v1/videos", {"prompt": prompt, **options})

    def extend(self, identity: str, **options: object) -> dict[str, Any]:
        """Ask for a clip that continues a finished one; `frames` is the number of its pictures that are kept."""
        return self._json("POST", f"/v1/videos/{identity}/extend", options)

    def get(self, identity: str) -> dict[str, Any]:
        """Return what became of a clip so far."""
        return self._json("GET", f"/v1/videos/{identity}")

    def list_all(self) -> list[dict[str, Any]]:
        """Return all clips, the newest first."""
        # Where the last one of a page is deleted meanwhile, the next page begins at the first again.
        return [*{job["id"]: job for job in self._pages()}.values()]

    def delete(self, identity: str) -> None:
        """Stop the work for a clip, and delete it; one that is not there any more is left alone."""
        try:
            self._json("DELETE", f"/v1/videos/{identity}")
        except ServerError as error:
            if error.status != 404:
                raise

    def wait(self, identity: str, *, seconds: float = 3600.0) -> dict[str, Any]:
        """Return a clip when it is completed or has failed.

        Raises:
            ServerError: It is not by then.
        """
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            job = self.get(identity)
            if job["status"] in ("completed", "failed"):
                return job
            time.sleep(PAUSE)
        raise ServerError(f"clip: must be completed after {seconds:g} s", 0)

    def fetch(self, identity: str, path: Path, *, form: str = "mp4") -> Path:
        """Write a finished clip to a file, and return the path."""
        atomic_write(path, self._send("GET", f"/v1/videos/{identity}/content?{urlencode({'format': form})}"))
        return path

    def metric(self, name: str) -> float:
        """Return a figure of the server."""
        for line in self._send("GET", "/metrics").decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
        raise ServerError(f"metric: must be one of the server, got {name!r}", 0)

    def _pages(self) -> Iterator[dict[str, Any]]:
        after: dict[str, str] = {}
        while True:
            page = self._json("GET", f"/v1/videos?{urlencode({'limit': 100, **after})}")
            yield from page["data"]
            if not page["has_more"]:
                return
            after = {"after": page["last_id"]}

    def _json(self, method: str, path: str, values: dict[str, object] | None = None) -> dict[str, Any]:
        body = None if values is None else json.dumps(values).encode()
        found: dict[str, Any] = json.loads(self._send(method, path, body))
        return found

    def _send(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"content-type": "application/json"} if body is not None else {}
        headers |= {} if self._token is None else {"authorization": f"Bearer {self._token}"}
        request = urllib.request.Request(self.address + path, body, headers, method=method)
        ends = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    content: bytes = answer.read()
                    return content
            except urllib.error.HTTPError as error:
                raise ServerError(_reason(error.read()), error.code) from error
            except (http.client.HTTPException, OSError) as error:
                # A request for a clip may have been taken: sent again, it would be drawn twice.
                if method == "POST" or time.monotonic() > ends:
                    raise ServerError(f"server: must answer at {self.address}, got {error}", 0) from error
                time.sleep(PAUSE)


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return "the server has refused the request"
