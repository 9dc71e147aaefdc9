"""The bodies of requests: JSON or a form with a file, as what is asked of `Jobs`.

    async with body_of(request, folder, limits) as (asked, upload):        # `upload` is a path, or None
        ...

The names are those of the videos API of OpenAI, as vLLM-Omni and SGLang have it (prompt, model, seconds, size, seed,
num_frames, negative_prompt, guidance_scale, input_reference), and those of the options of `generate`.
"""

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path, PurePath
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from ..core.errors import ReelmError, require
from ..core.json_values import Json
from ..generation.json_request import JSON_OPTIONS
from .limits import Limits

FLAGS = ("live", "endless")
FIELDS = ("model", "prompt", "frames", *FLAGS)
FILES = ("input_reference", "video", "image")  # names under which a clip or a picture may be uploaded
TEXTS = ("prompt", "model", "negative_prompt", "guidance", "decoder", "keys", "fit", "size")
MOST_DEPTH = 6  # levels of tables and lists: a schedule of prompts has 3
SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".gif", ".webp", ".png", ".jpg", ".jpeg", ".safetensors")


@contextlib.asynccontextmanager
async def body_of(request: Request, folder: Path, limits: Limits) -> AsyncIterator[tuple[Json, Path | None]]:
    """Read the body of a request for a clip: what is asked, and an uploaded file, which is there inside of the block.

    Args:
        request: The request.
        folder: The folder for an uploaded file.
        limits: The limits of the server.

    Raises:
        ReelmError: It is no JSON object and no form, has a name that is unknown, or a file of an unknown kind; or it
            does not come in time.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    files: list[Path] = []
    try:
        try:
            async with asyncio.timeout(limits.wait_seconds):
                values = await _read_values(request, kind, folder, limits, files)
        except TimeoutError as error:
            raise ReelmError(f"body: must come within {limits.wait_seconds:g} s") from error
        yield as_asked(values), files[0] if files else None
    finally:
        for path in files:
            path.unlink(missing_ok=True)


async def _read_values(request: Request, kind: str, folder: Path, limits: Limits, files: list[Path]) -> dict[str, Any]:
    """Return the values of a body of this kind; its file is added to the list."""
    if kind == "multipart/form-data":
        return await _read_form(request, folder, files)
    require(kind in ("", "application/json"), "content-type", "must be application/json or multipart/form-data", kind)
    return read_object(await request.body(), limits.json_bytes)


def read_object(body: bytes, most_bytes: int = 2**16) -> dict[str, Any]:
    """Return the values of a JSON object.

    Raises:
        ReelmError: It is none, or it is large, nested deeply, or has texts that cannot be written as UTF-8.
    """
    require(len(body) <= most_bytes, "body", f"must have at most {most_bytes} bytes without a file", len(body))
    try:
        values = json.loads(body, parse_constant=_refuse)
        json.dumps(values, ensure_ascii=False).encode()
        deep = _depth(values) > MOST_DEPTH
    except (ValueError, RecursionError) as error:
        raise ReelmError(f"body: must be a JSON object, got {type(error).__name__}") from error
    require(isinstance(values, dict) and not deep, "body", "must be a JSON object of few levels", type(values).__name__)
    return dict(values)


def _depth(values: Any) -> int:
    """Return how many levels of tables and lists there are."""
    inner = values.values() if isinstance(values, dict) else values if isinstance(values, list) else ()
    return 1 + max(map(_depth, inner), default=0)


def as_asked(values: dict[str, Any]) -> Json:
    """Return what is asked for, its options in a table of their own.

    Raises:
        ReelmError: A name is unknown, or a value is of the wrong kind.
    """
    for name in values:
        known = name in (*FIELDS, "size") or name in JSON_OPTIONS
        require(known, "body", f"must have names of {', '.join(sorted((*FIELDS, 'size', *JSON_OPTIONS)))}", name)
    values = {name: value for name, value in values.items() if value is not None}
    options = {name: value for name, value in values.items() if name in JSON_OPTIONS}
    for name in FLAGS:
        require(isinstance(values.get(name, False), bool), name, "must be true or false", values.get(name))
    if "size" in values:
        options |= _size(values["size"])
    for name in ("seconds", "num_frames"):
        if isinstance(options.get(name), str):  # OpenAI's clients write seconds as a text
            options[name] = _number(name, options[name])
    asked = {name: values[name] for name in FIELDS if name in values}
    require(isinstance(asked.get("model", ""), str), "model", "must be a name", asked.get("model"))
    return asked | {"options": options}


async def _read_form(request: Request, folder: Path, files: list[Path]) -> dict[str, Any]:
    """Return the values of a form; its file is added to the list."""
    values: dict[str, Any] = {}
    try:
        async with request.form(max_files=1, max_fields=50, max_part_size=2**16) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    require(name in FILES, "body", f"must have its file under a name of {', '.join(FILES)}", name)
                    await _keep(value, folder, files)
                elif name in FLAGS:
                    require(value in ("true", "false"), name, "must be true or false", value)
                    values[name] = value == "true"
                else:
                    values[name] = value if name in TEXTS else _number(name, value)
    except HTTPException as error:  # as which a form that cannot be read is raised
        raise ReelmError(f"body: must be a form that can be read ({error.detail})") from error
    except (LookupError, UnicodeError) as error:
        raise ReelmError(f"body: must be a form in a known encoding, got {error}") from error
    return values


async def _keep(file: UploadFile, folder: Path, files: list[Path]) -> None:
    """Write an uploaded file into the folder, under a name of our own."""
    suffix = PurePath(file.filename or "").suffix.lower()
    require(suffix in SUFFIXES, "file", f"must end in one of {', '.join(SUFFIXES)}", suffix)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="upload-", suffix=suffix, delete=False) as kept:
        files.append(Path(kept.name))
        while part := await file.read(2**20):
            await asyncio.to_thread(kept.write, part)


def _size(size: Any) -> dict[str, int]:
    parts = size.split("x") if isinstance(size, str) else []
    fits = len(parts) == 2 and all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts)
    require(fits, "size", "must be WIDTHxHEIGHT, such as 64x64", size)
    return {"width": int(parts[0]), "height": int(parts[1])}


def _number(name: str, text: str) -> Any:
    try:
        number = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        number = None
    require(isinstance(number, int | float) and not isinstance(number, bool), name, "must be a number", text)
    return number


def _refuse(constant: str) -> None:
    raise ValueError(constant)
