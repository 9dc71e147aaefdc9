"""The values that JSON can hold, as types: what configs, reports and metadata are made of.

values: Json = {"fps": 8.0, "prompts": [[0, "a red ball"]]}
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, Union

JsonValue: TypeAlias = Union[  # noqa: UP007 (an alias that names itself)
    None, bool, int, float, str, Sequence["JsonValue"], Mapping[str, "JsonValue"]
]
Json: TypeAlias = dict[str, JsonValue]
