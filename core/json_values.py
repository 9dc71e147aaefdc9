"""Types of the values that JSON can hold, for configs, reports and metadata.

values: Json = {"fps": 8.0, "prompts": [[0, "a red ball"]]}
json_text({"psnr": float("nan")})                  # '{"psnr": null}'
"""

import json
from collections.abc import Mapping
from typing import TypeAlias

JsonValue: TypeAlias = (
    "bool | int | float | str | list[JsonValue] | tuple[JsonValue, ...] | dict[str, JsonValue] | None"
)
Json: TypeAlias = dict[str, JsonValue]


def json_text(values: Mapping[str, JsonValue], *, indent: int | None = None) -> str:
    """Return an object as JSON text, in which NaN and infinities are null: JSON has no such numbers."""
    return json.dumps(json.loads(json.dumps(values), parse_constant=lambda _: None), indent=indent)
