"""What every command is: a dataclass whose fields are its options, and `run`.

Tyro makes flags and help from the fields. Options that the library has a dataclass for are made from that dataclass by
`config_options`. Results go to stdout, all else to stderr. Commands import what they need when they run, so that help
and parsing stay quick.
"""

import dataclasses
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, get_type_hints

if TYPE_CHECKING:
    from ..generation.generator import VideoGenerator
    from ..training.run_reports import RunProgress


class Command(ABC):
    """What `COMMANDS` holds: a dataclass of options, an example for the end of its help, and the work."""

    example: ClassVar[str]

    @abstractmethod
    def run(self) -> int:
        """Do it, and return the exit code."""


@dataclass(frozen=True, kw_only=True)
class ModelCommand(Command):
    """Options of all commands that load a model.

    Attributes:
        model: a bundled model's name, a checkpoint folder, or a hub id.
        device: auto, cpu or cuda[:n].
        dtype: auto, float32, bfloat16 or float16.
        weights: full, or int8: faster for large models, on a CPU only with VNNI, a little less exact.
        cache: full, or int8: keys and values in a fraction of the memory, slower on a CPU.
        json: print one JSON document and nothing else.
    """

    model: str = "world"
    device: str = "auto"
    dtype: str = "auto"
    weights: str = "full"
    cache: str = "full"
    json: bool = False

    # One clip is many small steps: on two busy cores, two threads made 24 tokens/s and one thread 188.
    one_thread: ClassVar[bool] = True

    @property
    def kinds(self) -> dict[str, Any]:
        """How the language model computes and remembers: `dtype`, `weights` and `cache`."""
        return {"dtype": self.dtype, "weights": self.weights, "cache": self.cache}

    def load(self) -> "VideoGenerator":
        """The model, on its device."""
        from ..generation.generator import VideoGenerator

        self.set_threads()
        return VideoGenerator.from_pretrained(self.model, device=self.device, **self.kinds)

    def set_threads(self) -> None:
        """One thread where that suits the command, unless the user says otherwise."""
        import torch

        if self.one_thread and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)


@dataclass(frozen=True, kw_only=True)
class RunCommand(Command):
    """Options of all training runs.

    Attributes:
        out: the run's folder; Ctrl-C leaves a checkpoint in it.
        resume: go on with the run in that folder.
        device: auto, cpu or cuda[:n].
    """

    out: Path
    resume: bool = False
    device: str = "auto"

    def tell(self, files: str, progress: "RunProgress") -> int:
        """Print how far the run in `out` has come; 130 if that is not its end."""
        print(f"wrote {self.out}: {files} of step {progress.step} of {progress.steps}")
        return 0 if progress.finished else 130


def config_options(cls: type, default: Any = None, leave_out: Collection[str] = ()) -> type:
    """The fields of a config as options: its names, types, defaults (those of `default`, if given) and help.

    Its checks are not among them: `from_dict` builds the config itself after the parser, so that what it refuses is
    worded like every other refusal.
    """
    hints, fields = get_type_hints(cls), []
    for item in dataclasses.fields(cls):
        if item.name in leave_out:
            continue
        kind, value = hints[item.name], item.default
        if default is not None:
            value = getattr(default, item.name)
        elif item.default_factory is not dataclasses.MISSING:
            value = item.default_factory()
        if dataclasses.is_dataclass(kind):
            kind = config_options(kind, None if value is dataclasses.MISSING else value, leave_out)  # type: ignore[arg-type]
            value = dataclasses.field(default_factory=kind)
        fields.append((item.name, kind, value))
    return dataclasses.make_dataclass(cls.__name__, fields, kw_only=True, namespace={"__doc__": cls.__doc__})


def strict_json(values: Any) -> str:
    """One line of strict JSON: what is not finite becomes null."""
    return json.dumps(json.loads(json.dumps(values, default=str), parse_constant=lambda _: None))


def print_report(report: dict[str, Any], *, json_alone: bool = False) -> None:
    """A table, unless JSON is to stand alone, and one line of JSON."""
    print(*([] if json_alone else [report]), strict_json(report), sep="\n")
