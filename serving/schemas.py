"""The parts of the OpenAPI description that FastAPI cannot read off the code: bodies of two kinds, and jobs."""

from typing import Any

from ..media.fitting import FITS

_TEXT, _NUMBER, _WHOLE, _FLAG = ({"type": kind} for kind in ("string", "number", "integer", "boolean"))
_PAIRS = {"type": "array", "items": {"type": "array", "maxItems": 2, "minItems": 2}}
_PROMPT = {"anyOf": [_TEXT, _PAIRS], "description": "The text, or a schedule of pairs (second, text)."}
_FIELDS: dict[str, Any] = {
    "prompt": _PROMPT,
    "model": _TEXT, "seconds": {"anyOf": [_NUMBER, _TEXT]}, "num_frames": _WHOLE, "size": _TEXT, "seed": _WHOLE,
    "negative_prompt": _TEXT, "guidance_scale": _NUMBER, "guidance": _TEXT, "temperature": _NUMBER, "top_k": _WHOLE,
    "top_p": _NUMBER, "min_p": _NUMBER, "width": _WHOLE, "height": _WHOLE, "decoder": _TEXT, "block_size": _WHOLE,
    "keys": _TEXT, "fit": {"enum": list(FITS)}, "live": _FLAG, "endless": _FLAG, "frames": _WHOLE,
}  # fmt: skip
# What is null is as if it were not given.
_NULLABLE = {name: {"anyOf": [field, {"type": "null"}]} for name, field in _FIELDS.items()}
_FILES = {name: {"type": "string", "format": "binary"} for name in ("input_reference", "video", "image")}
_OBJECT: dict[str, Any] = {"type": "object", "additionalProperties": False}
CLIP_BODY: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/json": {"schema": _OBJECT | {"properties": _NULLABLE}},
            "multipart/form-data": {"schema": _OBJECT | {"properties": _FIELDS | _FILES}},
        }
    }
}
SCORE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": _OBJECT | {"properties": {"prompt": _TEXT, "model": _TEXT} | _FILES, "minProperties": 1}
            }
        },
    }
}
_ERROR: dict[str, Any] = {
    "type": "object", "required": ["message", "type", "param", "code"],
    "properties": {
        "message": _TEXT, "type": _TEXT, "code": {"type": "null"}, "param": {"anyOf": [_TEXT, {"type": "null"}]},
    },
}  # fmt: skip
_REFUSAL = {"type": "object", "required": ["error"], "properties": {"error": _ERROR}}
REFUSALS: dict[int | str, Any] = {
    "4XX": {"description": "It is refused, and why.", "content": {"application/json": {"schema": _REFUSAL}}}
}
_JOB: dict[str, Any] = {
    "type": "object", "required": ["id", "object", "status", "progress", "model", "created_at"],
    "properties": {
        "id": _TEXT, "object": {"const": "video"}, "progress": _WHOLE, "model": _TEXT, "created_at": _WHOLE,
        "status": {"enum": ["queued", "in_progress", "completed", "failed"]}, "size": _TEXT,
    },
}  # fmt: skip
JOB: dict[int | str, Any] = {200: {"description": "The clip.", "content": {"application/json": {"schema": _JOB}}}}
_JOBS: dict[str, Any] = {"type": "object", "properties": {"data": {"type": "array", "items": _JOB}}}
JOBS: dict[int | str, Any] = {200: {"description": "The clips.", "content": {"application/json": {"schema": _JOBS}}}}
