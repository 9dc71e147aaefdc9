"""The parser of the command line: the fields of a dataclass are its options, and the docstrings of classes its help.

    parser = CommandParser("reelm generate", Generate)
    command = parser.parse(["a red ball", "--seconds", "2"])        # a Generate
    print(parser.help())

The words are parsed by argparse. It knows no types beyond functions of a string, and reports an error as a page of
usage; the classes here read the types of the fields, and turn every error into one line with the option, the rule and
the value.
"""

import argparse
import dataclasses
import difflib
import inspect
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from ..core.errors import ReelmError

C = TypeVar("C")

# The errors of argparse, and the rules that reelm states in place of them.
RULES = (
    (r"expected one argument", "must be followed by a value"),
    (r"expected at least one argument", "must be followed by a value, or several"),
    (r"expected (\d+) arguments?", r"must be followed by \1 values"),
    (r"ignored explicit argument (.*)", r"is a switch and takes no value, got \1"),
)
TYPES = {int: ("INT", "a whole number"), float: ("NUMBER", "a number"), str: ("TEXT", ""), Path: ("PATH", "")}


@dataclass(frozen=True, kw_only=True)
class Option:
    """What the type of a field does not say about its option; it stands in the field's `Annotated`.

    Attributes:
        positional: Whether the option is given by its place, not by its name.
        short: A short name, such as "-o".
        repeatable: Whether the option may be given several times, each time with one value of its tuple.
        group: A function that returns the dataclass whose fields are options in place of this field.
        prefixed: Whether the options of the group begin with the name of this field.
        default: The text of the help about the default value, in place of the value.
        bare: Whether the option may stand without a value, which is True; its type is bool or a Literal.
    """

    positional: bool = False
    short: str | None = None
    repeatable: bool = False
    group: Callable[[], type] | None = None
    prefixed: bool = True
    default: str | None = None
    bare: bool = False


class CommandParser(Generic[C]):
    """A parser of the words after a command's name."""

    def __init__(self, name: str, command: type[C], footer: str = "") -> None:
        """Make the parser of a dataclass.

        Args:
            name: The name of the program and the command, such as "reelm generate".
            command: The dataclass. Each "Attributes" section of its docstring, and of those of its bases, has the help
                of the fields of that class.
            footer: The end of the help.
        """
        about = inspect.cleandoc(command.__doc__ or "").split("\n\nAttributes:")[0]
        self._name, self._command = name, command
        self._names, self._words = ["-h", "--help"], list[str]()
        self._parser = _OneLineErrors(
            prog=name, description=about, epilog=footer, add_help=False, allow_abbrev=False,
            argument_default=argparse.SUPPRESS, formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        self._add_fields(command, "", "options")
        about_help = "Print this help and do nothing else."
        self._parser.add_argument_group("help").add_argument("-h", "--help", action="store_true", help=about_help)
        self._parser.usage = " ".join([name, "[OPTIONS]", *self._words])

    def help(self) -> str:
        """Return the help: what the command does, its options, and the footer."""
        return self._parser.format_help().rstrip("\n")

    def parse(self, words: list[str], recorded: object = None) -> C:
        """Return the command that these words describe.

        Args:
            words: The words after the command's name.
            recorded: An object whose attributes are the default values of the options of these names.

        Raises:
            ReelmError: A word is no option, or the value of one is missing or of a wrong type. The message has one
                line.
        """
        self._check_names(words)
        found, extra = self._parser.parse_known_args(words)
        if extra:
            several = "put quotes around a text of several words"
            raise ReelmError(
                f"{self._parser.usage}: must have no more words, got {', '.join(map(repr, extra))}; {several}"
            )
        command = _build(self._command, vars(found), "", recorded)
        assert isinstance(command, self._command)
        return command

    def _check_names(self, words: list[str]) -> None:
        """Refuse an option that does not exist, and say which one was probably meant."""
        for word in words[: words.index("--")] if "--" in words else words:
            name = word.partition("=")[0]
            if not word.startswith("-") or len(word) == 1 or " " in name or name in self._names or _is_number(word):
                continue
            if not word.startswith("--") and word[:2] in self._names:  # -oball.mp4
                continue
            last = name.lstrip("-").rpartition(".")[2]
            longer = [each for each in self._names if each.startswith(name) or each.endswith(f".{last}")]
            similar = longer or difflib.get_close_matches(name.replace("_", "-"), self._names, n=1)
            hint = f"did you mean {similar[0]}?" if similar else f"{self._name} --help lists them"
            raise ReelmError(f"{name}: is no option of {self._name}; {hint}")

    def _add_fields(self, cls: type, prefix: str, title: str) -> None:
        """Add the options of a dataclass: its own in one section of the help, and a section for each base class."""
        sections: dict[type, Any] = {}
        for owner, field, hint, option in _fields(cls):
            if owner not in sections:
                name = title if owner is cls else _title(owner.__doc__ or "")
                sections[owner] = self._parser.add_argument_group(name)
            about = _texts(owner).get(field.name, "")
            if option.group is not None:
                inner = f"{prefix}{field.name}." if option.prefixed else prefix
                group = option.group()
                self._add_fields(group, inner, _title(about or group.__doc__ or ""))
            else:
                self._add_option(sections[owner], field, hint, option, prefix, about)

    def _add_option(
        self, section: Any, field: "dataclasses.Field[Any]", hint: object, option: Option, prefix: str, about: str
    ) -> None:
        name = f"{prefix}{field.name}"
        flag = "--" + name.replace("_", "-")
        about += _default(field, option, flag)
        keywords: dict[str, Any] = {"help": about.replace("%", "%%")}
        if option.positional:
            self._words.append(field.name.upper())
            count = {} if _is_required(field) else {"nargs": "?"}
            section.add_argument(name, **keywords | _values(hint, option) | {"metavar": self._words[-1]} | count)
            return
        keywords["dest"] = name
        flags = [flag] if option.short is None else [option.short, flag]
        self._names += flags
        if option.bare:
            (kind,) = [each for each in get_args(hint) if each is not bool]
            keywords |= _values(kind, option) | {"nargs": "?", "const": True}
            self._add_off(section, flag, name)
        elif hint is bool:
            # A switch that is on unless given has a second name, which turns it off.
            keywords["action"] = argparse.BooleanOptionalAction if field.default else "store_true"
            if field.default:
                self._names.append(f"--no-{flag[2:]}")
            else:
                self._add_off(section, flag, name)
        else:
            keywords |= {"required": _is_required(field), **_values(hint, option, none=field.default is not None)}
        section.add_argument(*flags, **keywords)

    def _add_off(self, section: Any, flag: str, name: str) -> None:
        """Add the name that turns off a switch which a file of options has turned on; the help is silent on it."""
        self._names.append(f"--no-{flag[2:]}")
        section.add_argument(self._names[-1], dest=name, action="store_false", help=argparse.SUPPRESS)


class _OneLineErrors(argparse.ArgumentParser):
    """A parser whose errors are exceptions with one line."""

    def error(self, message: str) -> NoReturn:
        """Raise a `ReelmError` in place of printing the usage and leaving the process."""
        missing = message.partition("arguments are required: ")[2]
        if missing:
            raise ReelmError(f"{missing}: must be given; {self.prog} --help describes it")
        message = message.removeprefix("argument ")
        for pattern, rule in RULES:
            message = re.sub(f"{pattern}$", rule, message)
        raise ReelmError(message)


def _fields(cls: type) -> Iterator[tuple[type, "dataclasses.Field[Any]", object, Option]]:
    """Yield the fields of a dataclass with the class that has defined them, their types and their options.

    The fields of the class itself come first, then those of its bases.
    """
    hints = get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for owner in cls.__mro__:
        for name in [name for name in inspect.get_annotations(owner) if name in fields]:
            field, hint = fields.pop(name), hints[name]
            option = next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Option)), Option())
            plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
            if option.group is None and isinstance(plain, type) and dataclasses.is_dataclass(plain):
                option = Option(group=_constant(plain))
            yield owner, field, plain, option


def _constant(cls: type) -> Callable[[], type]:
    return lambda: cls


def _texts(cls: type) -> dict[str, str]:
    """Return the help of fields, by name, from the "Attributes" section of the docstring of their class."""
    section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def _build(cls: type, values: dict[str, Any], prefix: str, recorded: object) -> object:
    """Return an instance of a dataclass from the values that were given, by dotted name.

    The rest are those that are recorded, or else their defaults.
    """
    arguments: dict[str, Any] = {}
    for _, field, _, option in _fields(cls):
        name, known = f"{prefix}{field.name}", hasattr(recorded, field.name)
        if option.group is not None:
            inner = f"{name}." if option.prefixed else prefix
            arguments[field.name] = _build(option.group(), values, inner, getattr(recorded, field.name, None))
        elif name in values:
            value = values[name]
            arguments[field.name] = tuple(value) if isinstance(value, list) else value
        elif known:
            arguments[field.name] = getattr(recorded, field.name)
    return cls(**arguments)


def _title(text: str) -> str:
    """Return the title of a section from the first sentence of a text."""
    sentence = text.partition("\n")[0].partition(". ")[0].rstrip(".")
    return sentence[:1].lower() + sentence[1:]


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _default(field: "dataclasses.Field[Any]", option: Option, flag: str) -> str:
    """Return what the help says at its end about the default of an option."""
    if option.repeatable:
        return " (repeatable)"
    if _is_required(field):
        return " (required)"
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is False or (value is None and option.default is None):
        return ""
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else flag if value is True else str(value)
    return f" (default: {option.default or shown})"


def _values(hint: object, option: Option, *, none: bool = False) -> dict[str, Any]:
    """Return the arguments of `add_argument` for the values of an option of this type.

    Args:
        hint: The type of the field.
        option: The rest of the description.
        none: Whether the word "none" stands for None, where the type has it. A text or a path may be called so.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    optional, (kind,) = type(None) in kinds, [each for each in kinds if each is not type(None)]
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        count = {"action": "append"} if option.repeatable else {"nargs": "+" if inner[-1] is ... else len(inner)}
        return _values(inner[0], Option()) | count
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    metavar, noun = ("{" + ",".join(choices) + "}", "") if choices else TYPES[kind]
    none = none and optional and kind in (int, float)
    metavar += "|none" * none

    def convert(word: str) -> object:
        if none and word.lower() == "none":
            return None
        if choices:
            if word not in choices:
                raise argparse.ArgumentTypeError(f"must be one of {', '.join(choices)}, got {word!r}")
            return word
        try:
            return kind(word)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {noun}{' or none' if none else ''}, got {word!r}") from None

    return {"type": convert, "metavar": metavar}


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
