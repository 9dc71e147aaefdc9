"""The base classes of the commands: a command is a dataclass whose fields are its options, with a method `run`.

Tyro makes the flags and the help from the fields; `config_options` makes options from a config class of the library.
Results go to stdout, everything else to stderr. Commands import what they need when they run, so that help and parsing
stay fast.
"""

import dataclasses
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast, get_type_hints

from ..core.errors import require
from .parser import Option

if TYPE_CHECKING:
    from ..core.protocols import Precision
    from ..core.ray_pool import RayOptions
    from ..generation.generator import VideoGenerator
    from ..generation.pretrained import NumericsOptions
    from ..training.run_reports import RunProgress


class Command(ABC):
    """A command: a dataclass of options with an example for the end of its help and a method that runs it."""

    example: ClassVar[str]

    def recorded(self) -> object | None:
        """Return an object whose attributes are the options that a folder records, or None where there are none.

        They take the place of the default values: the words of the command line are parsed again with them.
        """
        return None

    @abstractmethod
    def run(self) -> int:
        """Run the command and return its exit code."""


@dataclass(frozen=True, kw_only=True)
class ModelCommand(Command):
    """Options of all commands that load a model.

    Attributes:
        model: The name of a bundled model, a checkpoint folder, or a hub id.
        device: The device to compute on: auto, cpu or cuda[:n].
        dtype: The dtype of the language model: auto, float32, bfloat16 or float16.
        weights: The precision of the weights: full or int8. int8 is faster for large models and slightly less exact; on
            a CPU it needs VNNI.
        cache: The precision of the keys and values: full or int8. int8 takes a fraction of the memory and is slower on
            a CPU.
        json: Print one JSON document and nothing else.
    """

    model: str = "world"
    device: str = "auto"
    dtype: str = "auto"
    weights: str = "full"
    cache: str = "full"
    json: bool = False

    # A clip takes many small steps: on two busy cores, two threads drew 24 tokens/s and one thread 188.
    one_thread: ClassVar[bool] = True

    @property
    def numerics(self) -> "NumericsOptions":
        """The dtype and precisions of the language model; the library refuses names that it does not know."""
        weights, cache = cast("Precision", self.weights), cast("Precision", self.cache)
        return {"dtype": self.dtype, "weights": weights, "cache": cache}

    def load(self, processes: int = 1) -> "VideoGenerator":
        """Load the model onto its device, or a part of it in each of some processes."""
        from ..core.progress import waiting

        with waiting(f"loading {self.model}"):
            from ..generation.generator import VideoGenerator

            self.set_threads()
            return VideoGenerator.from_pretrained(self.model, device=self.device, processes=processes, **self.numerics)

    def model_words(self) -> list[str]:
        """Return the words of the command line that load this model in another command."""
        words = []
        for name in ("model", "device", "dtype", "weights", "cache"):
            if getattr(self, name) != getattr(ModelCommand, name):
                words += [f"--{name}", str(getattr(self, name))]
        return words

    def set_threads(self) -> None:
        """Use one thread if the command is fastest with one, unless the user has set OMP_NUM_THREADS."""
        import torch

        if self.one_thread and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)


@dataclass(frozen=True, kw_only=True)
class BatchCommand(Command):
    """Options of all commands whose work can be spread over a cluster.

    Attributes:
        engine: Who does the work: process is this machine, and ray a cluster of Ray, which needs the ray extra and the
            same files under the same paths on all machines.
        address: The address of a cluster of Ray, such as 10.0.0.1:6379; unless given that of RAY_ADDRESS, or Ray is
            started on this machine.
        workers: The number of processes, with --engine ray; one for each CPU or GPU of the cluster unless given.
    """

    engine: Literal["process", "ray"] = "process"
    address: str | None = None
    workers: int | None = None

    def ray_options(self, options: Sequence[str] = ("address", "workers")) -> "RayOptions | None":
        """Return where Ray works, or None where this machine does; these options are refused then."""
        from ..core.ray_pool import RayOptions

        if self.engine == "ray":
            return RayOptions(address=self.address, workers=self.workers)
        for name in options:
            require(getattr(self, name) is None, name, "must be given with --engine ray alone", getattr(self, name))
        return None


@dataclass(frozen=True, kw_only=True)
class RunCommand(Command):
    """Options of all training runs.

    Attributes:
        out: The folder of the run, new or empty; after Ctrl-C it contains a checkpoint.
        resume: Go on with the run in that folder, with the options that it has. Of other options only --device may be
            given anew, and of --train: steps, checkpoint-minutes, report-steps, keep, parts, shards, tensor, recompute
            and compile. With "auto", go on if the folder holds a run, and else begin: one command for both.
        config: A TOML file of options, which have the names of those here: steps in a table [train] is --train.steps.
            Those of the command line come before them.
        device: The device to compute on: auto, cpu or cuda[:n].
    """

    out: Path
    resume: Annotated[bool | Literal["auto"], Option(bare=True)] = False
    config: Path | None = None
    device: str = "auto"

    def run(self) -> int:
        """Train, as one of the processes that torchrun has started or alone, and return the exit code."""
        from ..training.ranks import torchrun_ranks

        with torchrun_ranks(self.device):
            return self.train()

    @abstractmethod
    def train(self) -> int:
        """Train, print what became of it, and return the exit code."""

    def print_progress(self, files: str, progress: "RunProgress") -> int:
        """Print the step that the run in `out` has reached, and return the exit code: 130 if the run was stopped.

        Args:
            files: The files that the run has written, for the printed line.
            progress: The progress of the run.
        """
        print(f"wrote {self.out}: {files} of step {progress.step} of {progress.steps}")
        return 0 if progress.finished else 130


def config_options(cls: type, default: object = None, leave_out: Collection[str] = ()) -> type:
    """Make a dataclass of options from a config class, with the same names, types, defaults and help.

    The checks of the config are left out. `from_dict` builds the config itself after parsing, so that its errors look
    like all other errors of reelm.

    Args:
        cls: The config class, a dataclass.
        default: A config whose values are the defaults, in place of those of the class.
        leave_out: The names of fields that are not options.
    """
    hints, fields = get_type_hints(cls), []
    for item in dataclasses.fields(cls):
        if item.name in leave_out:
            continue
        hint, value = hints[item.name], item.default
        if default is not None:
            value = getattr(default, item.name)
        elif item.default_factory is not dataclasses.MISSING:
            value = item.default_factory()
        if dataclasses.is_dataclass(hint):
            hint = config_options(hint, None if value is dataclasses.MISSING else value, leave_out)  # type: ignore[arg-type]
            value = dataclasses.field(default_factory=hint)
        fields.append((item.name, hint, value))
    return dataclasses.make_dataclass(cls.__name__, fields, kw_only=True, namespace={"__doc__": cls.__doc__})


def strict_json(values: object) -> str:
    """Return one line of strict JSON, in which numbers that are not finite are null."""
    return json.dumps(json.loads(json.dumps(values, default=str), parse_constant=lambda _: None))


def print_report(report: Mapping[str, object], *, json_alone: bool = False) -> None:
    """Print a report as a table, unless `json_alone`, and as one line of JSON."""
    print(*([] if json_alone else [report]), strict_json(report), sep="\n")
