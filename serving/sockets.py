"""Live frames over WebSockets: clips that are watched while they are drawn, and worlds that are played.

A picture is one binary message: `HEADER`, then its pixels (H, W, 3) as bytes. All else is JSON with a "type".

    watch:  clip, then tokens (where asked for), pictures and frame, then end; the viewer sends ack, prompt or stop
    play:   the player sends start; ready, then pictures and receipts, then end; the player sends keys or stop
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from ..core.controls import ControlTrack
from ..core.errors import ReelmError, require
from ..core.json_values import Json
from ..generation.play import PlaySession
from ..generation.play_clock import play_by_clock
from .answers import without_paths
from .bodies import read_object
from .job_store import Job
from .jobs import Jobs
from .run import Accepted, Run

HEADER = struct.Struct("<IHHd")  # the number of the picture, its width and height, the second at which it is shown
MARGIN = 2  # latent frames that a clip without an end is drawn beyond the one that its viewer has shown last
LATE = 4  # messages that wait: pictures are left out then
log = logging.getLogger(__name__)
PLAY_FIELDS = ("type", "model", "prompt", "seed", "temperature")


class Line:
    """A WebSocket, whose viewer is let go where it takes nothing for too long."""

    def __init__(self, socket: WebSocket, wait_seconds: float) -> None:
        self.socket, self._wait_seconds = socket, wait_seconds

    async def say(self, kind: str, **values: object) -> None:
        """Send a message."""
        await self._send(self.socket.send_text(json.dumps({"type": kind, **values})))

    async def show(self, number: int, seconds: float, picture_HW3: np.ndarray) -> None:
        """Send a picture."""
        height, width = picture_HW3.shape[:2]
        await self._send(self.socket.send_bytes(HEADER.pack(number, width, height, seconds) + picture_HW3.tobytes()))

    async def _send(self, sending: Any) -> None:
        try:
            async with asyncio.timeout(self._wait_seconds):
                await sending
        except TimeoutError as error:
            raise WebSocketDisconnect(1008) from error

    async def first(self) -> dict[str, Any]:
        """Return the first message of the other side, which has to come soon.

        Raises:
            ReelmError: It is no JSON object, or does not come.
        """
        try:
            async with asyncio.timeout(self._wait_seconds):
                async for message in self.messages():
                    return message
        except TimeoutError as error:
            raise ReelmError(f"start: must come within {self._wait_seconds:g} s") from error
        raise WebSocketDisconnect

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the messages of the other side until it goes away.

        Raises:
            ReelmError: A message is no JSON object.
        """
        while True:
            message = await self.socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            yield read_object((message.get("text") or "").encode())

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it, if the other side has not."""
        if self.socket.client_state != WebSocketState.DISCONNECTED:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await self.socket.close(code, reason[:120])


async def until_first(*works: Any) -> None:
    """Run coroutines until one of them ends, cancel the others, and raise what it has raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def watch(line: Line, jobs: Jobs, run: Run, *, first: int, tokens: bool) -> None:
    """Show a clip while it is drawn.

    Args:
        line: The viewer.
        jobs: The jobs of the server.
        run: The clip.
        first: The latent frame to begin with.
        tokens: Whether the tokens are shown, too.
    """
    await line.say("clip", **describe_run(run))
    viewer = _Viewer(first)
    await until_first(_show(line, jobs, run, viewer, tokens=tokens), _listen(line, jobs, run, viewer))


class _Viewer:
    """What a viewer has seen.

    Attributes:
        next_frame: The latent frame that comes next.
        shown: When one was acknowledged last (time.monotonic).
    """

    def __init__(self, first: int) -> None:
        self.next_frame, self.shown = first, time.monotonic()


def describe_run(run: Run) -> dict[str, object]:
    """Return what a viewer has to know of a clip before its pictures come."""
    config, layout = run.parts.config, run.parts.lm.layout
    (rows, columns), side = layout.video.shape, run.parts.tokenizer.compression
    return {
        "id": run.job.id, "fps": config.fps, "width": config.width, "height": config.height, "rows": rows,
        "columns": columns, "order": layout.raster_S.tolist(), "given": layout.frame_size - layout.video.size,
        "temporal": side.t, "first": side.first, "latent_frames": run.plan.latent_frames,
        "given_frames": run.given_frames,
        "prompt": run.plan.last_prompt, "seed": run.plan.key.seed,
    }  # fmt: skip


async def _show(line: Line, jobs: Jobs, run: Run, viewer: _Viewer, *, tokens: bool) -> None:
    """Show what is drawn already, then what is drawn."""
    endless = run.plan.latent_frames is None
    if viewer.next_frame < run.first_frame:
        pictures = await asyncio.to_thread(run.pictures, viewer.next_frame)
        await _show_pictures(line, run, viewer.next_frame, pictures)
        viewer.next_frame = run.first_frame
    if endless:
        jobs.allow(run, viewer.next_frame + MARGIN)
    async for item in run.hub.watch():
        if isinstance(item, Accepted):
            if tokens:
                await line.say("tokens", first=item.first, tokens=item.tokens, passes=run.passes)
        elif item.number >= viewer.next_frame:
            await _show_pictures(line, run, item.number, item.pictures_nHW3)
            await line.say("frame", number=item.number, passes=run.passes, prompt=run.plan.prompt_at(item.number))
            viewer.next_frame = item.number + 1
    job = jobs.store.get(run.job.id)
    await line.say("end", status="deleted" if job is None else job.status, error=None if job is None else job.error)


async def _show_pictures(line: Line, run: Run, latent_frame: int, pictures_nHW3: np.ndarray) -> None:
    compression, fps = run.parts.tokenizer.compression, run.parts.config.fps
    first = compression.frames(latent_frame) if latent_frame else 0
    for number, picture_HW3 in enumerate(pictures_nHW3, first):
        await line.show(number, number / fps, picture_HW3)


async def _listen(line: Line, jobs: Jobs, run: Run, viewer: _Viewer) -> None:
    """Do what the viewer says; one that shows nothing any more of a clip without an end is let go."""
    ending = asyncio.ensure_future(_until_asleep(run, viewer, jobs.limits.wait_seconds))
    try:
        await until_first(_obey(line, jobs, run, viewer), ending)
    finally:
        ending.cancel()


async def _until_asleep(run: Run, viewer: _Viewer, seconds: float) -> None:
    while run.plan.latent_frames is not None or time.monotonic() < viewer.shown + seconds:
        await asyncio.sleep(seconds / 10)


async def _obey(line: Line, jobs: Jobs, run: Run, viewer: _Viewer) -> None:
    async for message in line.messages():
        try:
            kind = message.get("type")
            if kind == "ack":
                shown: Any = message.get("frame", -1)
                whole = type(shown) is int and 0 <= shown < viewer.next_frame
                require(whole, "frame", "must be the number of a latent frame that was sent", shown)
                viewer.shown = time.monotonic()
                jobs.allow(run, shown + 1 + MARGIN)
            elif kind == "prompt":
                prompt = message.get("prompt")
                require(isinstance(prompt, str), "prompt", "must be a text", prompt)
                await asyncio.to_thread(jobs.steer, run, str(prompt))
            else:
                require(kind == "stop", "type", "must be ack, prompt or stop", kind)
                jobs.stop(run)
        except ReelmError as error:
            await line.say("error", message=str(error))


class SocketPlayer:
    """A player whose keys come from elsewhere, with a receipt for each change: the first picture drawn under it.

    A key that is pressed and let go between two steps is held in the next one, so that no tap is lost.
    """

    def __init__(self, receipt: Callable[[int, int], object]) -> None:
        self._keys, self._tapped = frozenset[str](), frozenset[str]()
        self._receipt, self._new = receipt, list[int]()
        self._lock, self.fps = threading.Lock(), 1.0

    def hold(self, keys: frozenset[str], identity: int) -> None:
        """Hold these keys from now on."""
        with self._lock:
            self._tapped |= keys - self._keys
            self._keys = keys
            self._new.append(identity)

    def held(self, seconds: float) -> frozenset[str]:
        """Return the keys that are held now, or were pressed since the last step."""
        with self._lock:
            return self._keys | self._tapped

    def next_keys(self, seconds: float, pictures: int) -> ControlTrack:
        """Return what is held before each of the next pictures."""
        with self._lock:
            keys, new = self._keys | self._tapped, self._new
            self._new, self._tapped = [], frozenset()
        for identity in new:
            self._receipt(identity, round(seconds * self.fps))
        return ControlTrack((keys,) * pictures)


async def play(line: Line, jobs: Jobs, first: dict[str, Any]) -> None:
    """Play a model until the player stops or goes away, and keep the clip.

    Args:
        line: The player.
        jobs: The jobs of the server, among whose clips it is kept.
        first: The first message, with the model, the prompt and the seed.

    Raises:
        ReelmError: An argument is refused.
    """
    for name in first:
        require(name in PLAY_FIELDS, "start", f"must have names of {', '.join(PLAY_FIELDS)}", name)
    generator, guests = jobs.generator(first.get("model")), jobs.scheduler(first.get("model")).guests
    asked = {name: value for name, value in first.items() if value is not None and name != "type"}
    options = {name: asked[name] for name in ("seed", "temperature") if name in asked}
    loop, coming, stop = asyncio.get_running_loop(), asyncio.Queue[tuple[Any, ...]](), threading.Event()

    def put(*item: object) -> None:
        loop.call_soon_threadsafe(coming.put_nowait, item)

    player = SocketPlayer(lambda identity, picture: put("receipt", identity, picture))
    session = await asyncio.to_thread(generator.play, first.get("prompt") or None, **options)
    player.fps = session.fps
    guest = session.is_drawing
    guests.add(guest)
    playing = asyncio.ensure_future(asyncio.to_thread(_play, session, player, put, stop, jobs, asked))
    try:
        height, width = session.pictures.shape[1:3]
        await line.say("ready", keys=session.keys, fps=session.fps, width=width, height=height, seed=session.seed,
                       prompt=session.prompt)  # fmt: skip
        await until_first(_send_play(line, session.fps, coming), _listen_to_player(line, player, session, stop))
    finally:
        stop.set()
        await asyncio.gather(playing, return_exceptions=True)
        guests.discard(guest)
        jobs.scheduler(first.get("model")).wake()  # there may be memory for a clip that waits
        await asyncio.to_thread(session.close)


def _play(
    session: PlaySession, player: SocketPlayer, put: Callable[..., None], stop: threading.Event, jobs: Jobs,
    asked: dict[str, Any],
) -> None:  # fmt: skip
    """Play in a thread, which gives the loop its pictures, and at last the figures and the id of the clip."""
    figures, identity, told = dict[str, Any](), None, None
    most = jobs.limits.seconds - (1 + session.step_pictures) / session.fps  # with the first picture and the last step
    try:
        report = play_by_clock(session, player, lambda picture: put("picture", picture), seconds=most, stop=stop.is_set)
        figures = dataclasses.asdict(report)
        if len(session.held):
            identity = _keep(jobs, session, asked).id
    except ReelmError as error:
        told = without_paths(str(error), jobs)
    except Exception:
        log.exception("a play failed, or could not be kept")
        told = "the play failed, or could not be kept"
    finally:
        put("end", figures, identity, told)


def _keep(jobs: Jobs, session: PlaySession, asked: dict[str, Any]) -> Job:
    """Keep a play as the clip that its keys and its seed make."""
    options: Json = {"seed": session.seed, "keys": session.held.written}
    if "temperature" in asked:
        options["temperature"] = asked["temperature"]
    clip: Json = {"model": asked.get("model"), "prompt": session.prompt or None, "options": options}
    return jobs.keep(clip, session.session)


async def _send_play(line: Line, fps: float, coming: "asyncio.Queue[tuple[Any, ...]]") -> None:
    shown = 0
    while True:
        kind, *values = await coming.get()
        if kind == "picture":
            if coming.qsize() < LATE:  # a slow line shows fewer pictures, and not older ones
                await line.show(shown, shown / fps, values[0])
            shown += 1
        elif kind == "receipt":
            await line.say("receipt", id=values[0], picture=values[1])
        else:
            await line.say("end", figures=values[0], id=values[1], error=values[2])
            return


async def _listen_to_player(line: Line, player: SocketPlayer, session: PlaySession, stop: threading.Event) -> None:
    """Take the keys of a player; one who goes away holds nothing any more, and the play ends."""
    async for message in line.messages():
        try:
            kind = message.get("type")
            if kind == "keys":
                held, identity = message.get("held", 0), message.get("id", 0)
                texts = isinstance(held, list) and all(isinstance(name, str) for name in held)
                require(texts, "held", "must be a list of names of keys", held)
                require(type(identity) is int, "id", "must be a whole number", identity)
                keys = frozenset(map(str, held))
                session.check(ControlTrack((keys,)))
                player.hold(keys, identity)
            else:
                require(kind == "stop", "type", "must be keys or stop", kind)
                stop.set()
        except ReelmError as error:
            await line.say("error", message=str(error))
