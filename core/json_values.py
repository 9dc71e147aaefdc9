"""The values that JSON can hold, as types: what configs, reports and metadata are made of.

values: Json = {"fps": 8.0, "prompts": [[0, "a red ball"]]}
"""

from typing import TypeAlias

JsonValue: TypeAlias = "None | bool | int | float | str | list[JsonValue] | tuple[JsonValue, ...] | dict[str, JsonValue]"
Json: TypeAlias = dict[str, JsonValue]
