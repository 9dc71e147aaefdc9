"""Strict configs: frozen dataclasses to and from JSON; an unknown key or a wrong type is refused by name.

config = from_dict(TokenizerConfig, json.loads(text))
text = json.dumps(to_dict(config))
"""

import dataclasses
import types
import typing
from collections.abc import Collection
from typing import Any, TypeVar

from .errors import ReelmError, require

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass (nested ones too) as plain JSON values."""
    return dataclasses.asdict(config)


def differences(values: dict[str, Any], others: dict[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Where two tables of plain values differ: by name ("train.steps"), the value of each; None where it has none."""
    found: dict[str, tuple[Any, Any]] = {}
    for name in dict.fromkeys([*values, *others]):
        value, other = values.get(name), others.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            found |= differences(value, other, f"{prefix}{name}.")
        elif value != other:
            found[prefix + name] = (value, other)
    return found


def check_same(values: dict[str, Any], begun: dict[str, Any], may_change: Collection[str] = ()) -> None:
    """Refuse to go on with other options than those that a run was begun with.

    Raises:
        ReelmError: it names the options that differ, but for those that may.
    """
    changed = {name: pair for name, pair in differences(values, begun).items() if name not in may_change}
    given, were = ({name: pair[index] for name, pair in changed.items()} for index in (0, 1))
    require(not changed, ", ".join(changed), f"must be as in the run that goes on, {were}", given)


def from_dict(cls: type[T], values: Any, where: str = "config") -> T:
    """Build the dataclass `cls` from JSON values; refuse unknown keys, missing keys and wrong types, by name."""
    if not isinstance(values, dict):
        raise ReelmError(f"{where}: must be a table of options, got {type(values).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
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
        return value  # it was built already
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
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ReelmError(f"{where}: must be {getattr(hint, '__name__', hint)}, got {value!r}")
