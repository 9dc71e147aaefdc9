"""Types of the values that JSON can hold, for configs, reports and metadata.

values: Json = {"fps": 8.0, "prompts": [[0, "a red ball"]]}
"""

from typing import TypeAlias

JsonValue: TypeAlias = (
    "bool | int | float | str | list[JsonValue] | tuple[JsonValue, ...] | dict[str, JsonValue] | None"
)
Json: TypeAlias = dict[str, JsonValue]
