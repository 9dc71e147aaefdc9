"""The HTTP application: the videos API, live frames, scores, health and metrics, and the page.

    app = make_app(jobs, hosts=("127.0.0.1",), token=None)
    uvicorn.run(app)

The videos API has the shapes of OpenAI's, which vLLM-Omni and SGLang have, too. FastAPI describes it at /openapi.json.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocketDisconnect

from .. import __version__
from ..core.errors import ReelmError, require
from ..core.json_values import Json
from ..generation.pretrained import controller_of
from ..generation.scoring import Score
from ..generation.video import Video
from ..media.live_mp4 import LiveMp4
from .answers import describe_job, list_of, metrics, without_paths
from .bodies import body_of
from .clip_request import read_clip_of
from .drawing import DrawnFrame
from .guard import Guard, error_body
from .job_store import CLIP, Job
from .jobs import Jobs, QueueFullError
from .run import Run
from .schemas import CLIP_BODY, JOB, JOBS, REFUSALS, SCORE_BODY
from .sockets import MARGIN, Line, play, watch

PAGE = Path(__file__).parent / "page"
# The forms of a finished clip, by the value of `format`: the suffix of its file and its media type.
FORMS = {"mp4": (".mp4", "video/mp4"), "gif": (".gif", "image/gif"), "webp": (".webp", "image/webp"),
         "session": (".session.safetensors", "application/octet-stream")}  # fmt: skip
RETRY_SECONDS = 5


class MissingError(Exception):
    """There is no such clip."""


def make_app(jobs: Jobs, *, hosts: Sequence[str], token: str | None = None) -> FastAPI:
    """Return the application.

    Args:
        jobs: The jobs of the server.
        hosts: The names under which it is reached, without ports; "*" for any.
        token: What requests have to bring along, or None.
    """

    app = FastAPI(title="reelm", version=__version__, docs_url=None, redoc_url=None, responses=REFUSALS)
    app.state.jobs, app.state.sockets, app.state.plays = jobs, 0, 0
    app.state.uploads = asyncio.Semaphore(jobs.limits.uploads)
    _add_errors(app, jobs)
    _add_videos(app, jobs)
    _add_content(app, jobs)
    _add_others(app, jobs)
    _add_sockets(app, jobs)
    app.mount("/page", StaticFiles(directory=PAGE))
    app.add_middleware(Guard, hosts=hosts, token=token, body_bytes=jobs.limits.body_bytes)
    return app


def _add_errors(app: FastAPI, jobs: Jobs) -> None:
    """Answer errors in one shape, without what is inside of the server."""

    @app.exception_handler(ReelmError)
    async def refused(request: Request, error: ReelmError) -> JSONResponse:
        told = without_paths(str(error), jobs)
        if isinstance(error, QueueFullError):
            body = error_body(told, "rate_limit_error")
            return JSONResponse(body, HTTPStatus.TOO_MANY_REQUESTS, {"retry-after": str(RETRY_SECONDS)})
        return JSONResponse(error_body(told, "invalid_request_error", told.partition(":")[0]), 400)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return JSONResponse(error_body(f"{name}: {first['msg']}", "invalid_request_error", name), 400)

    @app.exception_handler(MissingError)
    async def missing(request: Request, error: MissingError) -> JSONResponse:
        return JSONResponse(error_body("there is no such clip", "not_found_error", "id"), HTTPStatus.NOT_FOUND)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> JSONResponse:
        return JSONResponse(error_body("the client has gone away", "invalid_request_error"), 400)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        body = error_body(str(error.detail), "invalid_request_error")
        headers = error.headers
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:  # of which Starlette names those of one route
            here = [each for each in app.routes if isinstance(each, Route) and each.matches(request.scope)[0].value]
            methods = sorted({method for route in here for method in route.methods or ()})
            headers = {"allow": ", ".join(methods)} if methods else headers
        return JSONResponse(body, error.status_code, headers)


def _job(jobs: Jobs, identity: str) -> Job:
    job = jobs.store.get(identity)
    if job is None:
        raise MissingError
    return job


@contextlib.asynccontextmanager
async def _body(app: FastAPI, jobs: Jobs, request: Request) -> AsyncIterator[tuple[Json, Path | None]]:
    """Read a body; only some with files are read at a time."""
    form = request.headers.get("content-type", "").startswith("multipart/")
    turn = app.state.uploads if form else contextlib.nullcontext()
    async with turn, body_of(request, jobs.store.uploads, jobs.limits) as found:
        yield found


def _add_videos(app: FastAPI, jobs: Jobs) -> None:
    async def submit(request: Request, of: Job | None = None) -> JSONResponse:
        async with _body(app, jobs, request) as (asked, upload):
            frames: Any = asked.pop("frames", None)
            require(frames is None or type(frames) is int, "frames", "must be a whole number", frames)
            rule = "must have no file where a clip of the server is continued"
            require(of is None or upload is None, "body", rule, "a file")
            job = await asyncio.to_thread(jobs.submit, asked, source=upload, of=of, frames=frames)
        return JSONResponse(describe_job(job, jobs), HTTPStatus.OK)

    @app.post("/v1/videos", openapi_extra=CLIP_BODY, responses=JOB, summary="Ask for a clip")
    async def create(request: Request) -> JSONResponse:
        return await submit(request)

    @app.post("/v1/videos/{identity}/extend", openapi_extra=CLIP_BODY, responses=JOB,
              summary="Ask for a clip that continues a finished one")  # fmt: skip
    async def extend(identity: str, request: Request) -> JSONResponse:
        return await submit(request, _job(jobs, identity))

    @app.get("/v1/videos", responses=JOBS, summary="List the clips")
    async def listed(
        limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None,
        order: Literal["asc", "desc"] = "desc",
    ) -> JSONResponse:  # fmt: skip
        found = jobs.store.page(limit=limit + 1, after=after, newest_first=order == "desc")
        return JSONResponse(list_of([describe_job(job, jobs) for job in found], limit))

    @app.get("/v1/videos/{identity}", responses=JOB, summary="What became of a clip")
    async def one(identity: str) -> JSONResponse:
        return JSONResponse(describe_job(_job(jobs, identity), jobs))

    @app.delete("/v1/videos/{identity}", summary="Stop the work for a clip, and delete it")
    async def delete(identity: str) -> JSONResponse:
        if not await asyncio.to_thread(jobs.delete, _job(jobs, identity).id):
            raise MissingError
        return JSONResponse({"id": identity, "object": "video.deleted", "deleted": True})


def _add_content(app: FastAPI, jobs: Jobs) -> None:
    @app.get(
        "/v1/videos/{identity}/content", summary="A finished clip, whole or in ranges", response_class=FileResponse
    )
    async def content(identity: str, format: Literal["mp4", "gif", "webp", "session"] = "mp4") -> FileResponse:
        job = _job(jobs, identity)
        require(job.status == "completed", "video", "must be completed", job.status)
        suffix, kind = FORMS[format]
        path = await asyncio.to_thread(_in_form, jobs.store.folder(job.id), suffix)
        return FileResponse(path, media_type=kind, filename=f"{job.id}{suffix}", content_disposition_type="inline")

    @app.get(
        "/v1/videos/{identity}/stream",
        response_class=StreamingResponse,
        summary="A clip while it is drawn, as fragmented mp4 (a WebSocket at the same address gives its pictures)",
    )
    async def live(identity: str) -> StreamingResponse:
        status = _job(jobs, identity).status
        require(status in ("queued", "in_progress"), "video", "must not be over (see content)", status)
        run = await asyncio.to_thread(jobs.join, identity)
        if run is None:
            raise MissingError
        return StreamingResponse(_mp4_of(jobs, run), media_type="video/mp4")


async def _mp4_of(jobs: Jobs, run: Run) -> AsyncIterator[bytes]:
    """Yield the bytes of a clip while it is drawn; a viewer who goes away leaves it."""
    encoder = LiveMp4(run.parts.config.fps)
    try:
        if run.first_frame:
            yield await asyncio.to_thread(lambda: encoder.encode(run.pictures(0)))
        if run.plan.latent_frames is None:
            jobs.allow(run, run.first_frame + MARGIN)
        async for item in run.hub.watch():
            if isinstance(item, DrawnFrame):
                if run.plan.latent_frames is None:
                    jobs.allow(run, item.number + 1 + MARGIN)
                yield await asyncio.to_thread(encoder.encode, item.pictures_nHW3)
        yield await asyncio.to_thread(encoder.finish)
    finally:
        jobs.leave(run)


def _in_form(folder: Path, suffix: str) -> Path:
    """Return the file of a clip with this suffix, which is made the first time."""
    clip = folder / CLIP
    path = clip.with_name(clip.stem + suffix)
    if not path.is_file():
        video = Video.load(clip)
        if suffix.endswith(".safetensors"):
            session = video.to_session()
            require(session is not None, "format", "must not be session: the clip has no tokens", suffix)
            assert session is not None
            session.save(path)
        else:
            video.save(path)
    return path


def _add_others(app: FastAPI, jobs: Jobs) -> None:
    @app.get("/health", summary="Whether the server answers")
    async def health() -> dict[str, object]:
        return {"status": "ok", "version": __version__}

    @app.get("/metrics", response_class=PlainTextResponse, summary="Figures for Prometheus")
    async def figures() -> PlainTextResponse:
        return PlainTextResponse(
            metrics(jobs, app.state.sockets, app.state.plays), media_type="text/plain; version=0.0.4"
        )

    @app.get("/v1/models", summary="The models, with what their prompts and keys may be")
    async def models() -> dict[str, object]:
        return {"object": "list", "data": [_model(name, jobs) for name in jobs.generators]}

    @app.post("/v1/score", openapi_extra=SCORE_BODY, summary="How likely a clip is under a prompt")
    async def score(request: Request) -> JSONResponse:
        async with _body(app, jobs, request) as (asked, upload):
            unused = sorted({*asked, *asked["options"]} - {"options", "prompt", "model"})  # type: ignore[misc]
            require(not unused, "body", "must have a clip, a prompt and a model alone", ", ".join(unused))
            require(upload is not None, "body", "must have a clip", None)
            assert upload is not None
            found = await asyncio.to_thread(_score, jobs, upload, asked)
        return JSONResponse({"object": "score", "nats_per_token": found.nats_per_token})

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")


def _score(jobs: Jobs, upload: Path, asked: Json) -> Score:
    prompt: Any = asked.get("prompt")
    return jobs.generator(asked.get("model")).score(read_clip_of(upload, jobs.limits), prompt)


def _model(name: str, jobs: Jobs) -> dict[str, object]:
    generator = jobs.generators[name]
    config, controller = generator.parts.config, controller_of(generator.parts.config.lm)
    return {
        "id": name, "object": "model", "owned_by": "reelm", "width": config.width, "height": config.height,
        "fps": config.fps, "keys": list(controller.keys), "words": list(generator.parts.lm.known_words),
        "guidance_scale": config.sampling.guidance_scale, "temperature": config.sampling.temperature,
    }  # fmt: skip


def _add_sockets(app: FastAPI, jobs: Jobs) -> None:
    @contextlib.asynccontextmanager
    async def line_of(socket: WebSocket) -> AsyncIterator[Line | None]:
        """Accept a WebSocket, if there may be one more, and close it in the end."""
        if app.state.sockets >= jobs.limits.sockets:
            await socket.close(1013, "there are too many viewers")
            yield None
            return
        app.state.sockets += 1
        line = Line(socket, jobs.limits.wait_seconds)
        try:
            await socket.accept()
            yield line
        except WebSocketDisconnect:
            pass
        except ReelmError as error:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await line.say("error", message=without_paths(str(error), jobs))
            await line.close(1008, "refused")
        finally:
            app.state.sockets -= 1
            await line.close()

    @app.websocket("/v1/videos/{identity}/stream")
    async def stream(
        socket: WebSocket, identity: str, tokens: bool = False, first: Annotated[int, Query(ge=0, lt=2**31)] = 0
    ) -> None:
        async with line_of(socket) as line:
            if line is None:
                return
            run = await asyncio.to_thread(jobs.join, identity, tokens=tokens)
            if run is None:
                job = jobs.store.get(identity)
                await line.say("end", status="deleted" if job is None else job.status)
                return
            try:
                await watch(line, jobs, run, first=first, tokens=tokens)
            finally:
                jobs.leave(run)

    @app.websocket("/v1/play")
    async def played(socket: WebSocket) -> None:
        async with line_of(socket) as line:
            if line is None:
                return
            first = await line.first()
            require(app.state.plays < jobs.limits.plays, "plays", f"must be at most {jobs.limits.plays} at a time",
                    "one more")  # fmt: skip
            app.state.plays += 1
            try:
                await play(line, jobs, first)
            finally:
                app.state.plays -= 1
