"""Who is let in: the hosts and the origins of requests, the token, the size of bodies, and the headers of answers.

    app.add_middleware(Guard, hosts=("127.0.0.1", "localhost"), token=None, body_bytes=2**26)

A page of another site can send requests to a server on this machine: they have its `Origin`, or, after its name was
made to point here, its name as `Host`. Both are compared with the names of the server.
"""

import hmac
from collections.abc import Sequence
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Nothing from elsewhere; frames are drawn from WebSockets, clips are shown from blobs.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin", "cache-control": "no-store",
}  # fmt: skip
OPEN = ("/", "/health")  # what anybody may see: the page has nothing of anybody in it


class TooLargeError(Exception):
    """A body is larger than is allowed."""


class Guard:
    """An ASGI application around another one, which sees only requests that are let in."""

    def __init__(self, app: ASGIApp, *, hosts: Sequence[str], token: str | None, body_bytes: int) -> None:
        """Guard an application.

        Args:
            app: The application.
            hosts: The names under which the server is reached, without ports; "*" for any.
            token: What requests have to bring along, or None.
            body_bytes: The largest body.
        """
        self._app, self._hosts, self._token, self._body_bytes = app, hosts, token, body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have the application answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._refused(scope, headers)
        if refused is not None:
            await _refuse(scope, receive, send, *refused)
            return
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()) or int(length) > self._body_bytes:
            await _refuse(scope, receive, send, 413, "the body is too large")
            return
        await self._limited(scope, receive, send)

    def _refused(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """Return the status and the reason for which a request is refused."""
        host = headers.get("host", "")
        origin = headers.get("origin")
        try:
            name, site = urlsplit(f"//{host}").hostname or "", None if origin is None else urlsplit(origin).netloc
        except ValueError:
            return 400, "Host and Origin must be names of hosts"
        if "*" not in self._hosts and name not in self._hosts:
            return 421, "this is no name of the server"
        changes = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if changes and origin is not None and site != host:
            return 403, "requests from other sites are refused"
        path = scope["path"]
        if self._token is not None and path not in OPEN and not path.startswith("/page/"):
            given = _token_of(scope, headers)
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                return 401, "a token is needed: Authorization: Bearer TOKEN"
        return None

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the application answer, with the largest body, and add the headers."""
        taken, answered = 0, False

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._body_bytes:
                raise TooLargeError
            return message

        async def with_headers(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                found = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    found.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, counted if scope["type"] == "http" else receive, with_headers)
        except TooLargeError:
            if not answered:
                await _refuse(scope, receive, send, 413, "the body is too large")


def _token_of(scope: Scope, headers: Headers) -> str:
    """Return the token of a request: in a header, or for what a page cannot give headers, in the address."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    return (parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token") or [""])[0]


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 4000 + status, "reason": reason})
        return
    from starlette.responses import JSONResponse

    answer = JSONResponse(error_body(reason, "invalid_request_error"), status, HEADERS)
    await answer(scope, receive, send)


def error_body(message: str, kind: str, param: str | None = None) -> dict[str, object]:
    """Return the body of an answer that refuses, in the shape of OpenAI's API."""
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}
