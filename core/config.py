"""Strict configs: frozen dataclasses to and from JSON, with errors that name unknown keys and wrong types.

config = from_dict(TokenizerConfig, json.loads(text))
text = json.dumps(to_dict(config))
"""

import dataclasses
import types
import typing
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import ReelmError, require
from .json_values import Json, JsonValue

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


def to_dict(config: "DataclassInstance") -> Json:
    """Return the fields of a dataclass, and of dataclasses in it, as JSON values."""
    return dataclasses.asdict(config)


def differences(values: Json, others: Json, prefix: str = "") -> dict[str, tuple[JsonValue, JsonValue]]:
    """Return the options in which two configs differ, by dotted name, such as "train.steps".

    Args:
        values: The options of one config.
        others: The options of the other.
        prefix: A string to put before each name.

    Returns:
        The value of each config for every name that differs; None where a config does not have that option.
    """
    found: dict[str, tuple[JsonValue, JsonValue]] = {}
    for name in dict.fromkeys([*values, *others]):
        value, other = values.get(name), others.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            found |= differences(value, other, f"{prefix}{name}.")
        elif value != other:
            found[prefix + name] = (value, other)
    return found


def check_same(values: Json, saved: Json, may_change: Collection[str] = ()) -> None:
    """Check that a run is resumed with the options that it was started with.

    Args:
        values: The options of the resumed run.
        saved: The options that the run was started with.
        may_change: The dotted names of options that may differ.

    Raises:
        ReelmError: Other options differ; the message names them.
    """
    changed = {name: pair for name, pair in differences(values, saved).items() if name not in may_change}
    now, before = ({name: pair[index] for name, pair in changed.items()} for index in (0, 1))
    require(not changed, ", ".join(changed), f"must be as in the run that goes on, {before}", now)


def from_dict(cls: type[T], values: object, where: str = "config") -> T:
    """Build the dataclass `cls` from JSON values.

    Args:
        cls: The class; its fields may be dataclasses, tuples of one type, literals, paths, plain types, and
            unions with None.
        values: A dict of the fields' values.
        where: The name of the config in error messages.

    Raises:
        ReelmError: A key is unknown or missing, or a value has the wrong type; the message names it.
    """
    if not isinstance(values, dict):
        raise ReelmError(f"{where}: must be a table of options, got {type(values).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ReelmError(f"{where}: unknown option {unknown[0]!r}, must be one of {sorted(fields)}")
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ReelmError(f"{where}: the option {missing[0]!r} is missing")
    return cls(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            if value is None and option is type(None):
                return None
            if option is not type(None) and value is not None:
                return _convert(option, value, where)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return value
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        if isinstance(value, list | tuple):
            item = typing.get_args(hint)[0]
            return tuple(_convert(item, entry, f"{where}[{index}]") for index, entry in enumerate(value))
    elif origin is typing.Literal:
        if value in typing.get_args(hint):
            return value
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif hint is Path and isinstance(value, str):
        return Path(value)
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ReelmError(f"{where}: must be {getattr(hint, '__name__', hint)}, got {value!r}")
