"""The parts of the OpenAPI description that FastAPI cannot read off the code: bodies of two kinds, and jobs."""

from typing import Any

_TEXT, _NUMBER, _WHOLE, _FLAG = ({"type": kind} for kind in ("string", "number", "integer", "boolean"))
_FIELDS: dict[str, Any] = {
    "prompt": {"description": "The text, or a schedule of pairs (second, text).",
               "anyOf": [_TEXT, {"type": "array", "items": {"type": "array", "maxItems": 2, "minItems": 2}}]},
    "model": _TEXT, "seconds": {"anyOf": [_NUMBER, _TEXT]}, "num_frames": _WHOLE, "size": _TEXT, "seed": _WHOLE,
    "negative_prompt": _TEXT, "guidance_scale": _NUMBER, "guidance": _TEXT, "temperature": _NUMBER, "top_k": _WHOLE,
    "top_p": _NUMBER, "min_p": _NUMBER, "width": _WHOLE, "height": _WHOLE, "decoder": _TEXT, "block_size": _WHOLE,
    "keys": _TEXT, "fit": _TEXT, "live": _FLAG, "endless": _FLAG, "frames": _WHOLE,
}  # fmt: skip
_FILE = {"type": "string", "format": "binary"}
CLIP_BODY: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/json": {"schema": {"type": "object", "properties": _FIELDS, "additionalProperties": False}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": _FIELDS | dict.fromkeys(("input_reference", "video", "image"), _FILE),
                }
            },
        }
    }
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
