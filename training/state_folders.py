"""States of a training on disk, a folder for each, written beside the training and read by any number of processes.

    folders = StateFolders(run, ranks, keep=3)
    folders.begin(tensors, StateValues(step=40, ...))       # copies the tensors; a thread writes the copies
    saved = folders.finish()                                # SavedState(run / "state-00000040")

A folder has state.json and safetensors files: one of whole tensors where one process has written it, and a part of each
tensor from each of several processes (`torch.distributed.checkpoint`), whose disk must be the same. It gets its name
when all of it is written, so that a state is whole or not there.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError

from ..core.checkpoint import load_tensors, read_json, safetensors_content, save_json
from ..core.config import from_dict, to_dict
from ..core.errors import CheckpointError, ReelmError, require
from ..core.files import atomic_write, check_writable, sync_folder
from .ranks import PATIENCE, Ranks

DIGITS = "[0-9]" * 8
VALUES, WHOLE = "state.json", "state.safetensors"
ORDER = "order."  # before the name of a tensor: the order of its rows, where it is not that of one process


@dataclass(frozen=True)
class StateValues:
    """The numbers and texts of a state.

    Attributes:
        step: The number of steps made.
        steps: That of the whole run.
        precision: The precision of the products where the run decides it itself.
        mean_norm, accepted_steps, left_out_steps: What the guard of the steps knows (step_guard.py).
    """

    step: int
    steps: int
    precision: str
    mean_norm: float
    accepted_steps: int
    left_out_steps: int

    def __post_init__(self) -> None:
        require(self.step >= 0, "step", "must be at least 0", self.step)


@dataclass(frozen=True)
class SavedState:
    """The state of a training in a folder."""

    folder: Path

    def values(self) -> StateValues:
        """Return the numbers and texts of the state.

        Raises:
            ReelmError: The file of them is damaged.
        """
        return from_dict(StateValues, read_json(self.folder / VALUES), f"resume: {self.folder.name}")

    def sizes(self) -> dict[str, torch.Size]:
        """Return the sizes of the tensors by their names.

        Raises:
            CheckpointError: A file is damaged.
        """
        if (self.folder / WHOLE).exists():
            return {name: tensor.shape for name, tensor in load_tensors(self.folder / WHOLE).items()}
        return {name: about.size for name, about in self._parts().items()}

    def tensors(self, wanted: Callable[[str], bool]) -> dict[str, torch.Tensor]:
        """Return whole tensors on the CPU by their names, those whose names are wanted.

        Raises:
            CheckpointError: A file is damaged.
        """
        if (self.folder / WHOLE).exists():
            return {name: tensor for name, tensor in load_tensors(self.folder / WHOLE).items() if wanted(name)}
        chosen = {
            name: torch.empty(about.size, dtype=about.properties.dtype)
            for name, about in self._parts().items()
            if wanted(name)
        }
        self._read(chosen, no_dist=True)
        return chosen

    def read_into(self, tensors: dict[str, torch.Tensor], group: dist.ProcessGroup | None) -> None:
        """Overwrite tensors, of which each process of a group may have a part; all of them must ask for it.

        Raises:
            CheckpointError: A file is damaged.
        """
        if group is None:
            for name, tensor in self.tensors(tensors.__contains__).items():
                tensors[name].copy_(tensor)
        else:
            self._read(tensors, process_group=group)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the averaged weights and the buffers, whole, by their names in the state dict of the model.

        Raises:
            CheckpointError: A file is damaged.
        """
        averaged = {name.removeprefix("average.") for name in self.sizes() if name.startswith("average.")}

        def wanted(name: str) -> bool:
            group, _, own = name.removeprefix(ORDER).partition(".")
            return group == "average" or (group == "model" and own not in averaged)

        found = self.tensors(wanted)
        return {
            name.partition(".")[2]: in_order(tensor, found.get(ORDER + name))
            for name, tensor in found.items()
            if not name.startswith(ORDER)
        }

    def _parts(self) -> dict[str, Any]:
        with _told(CheckpointError, self._rule):
            from torch.distributed.checkpoint import HuggingFaceStorageReader

            found: dict[str, Any] = HuggingFaceStorageReader(str(self.folder)).read_metadata().state_dict_metadata
        for name, about in found.items():
            # The library takes the size from the last part that is there, and reads without a word what is not.
            if sum(part.sizes.numel() for part in about.chunks) != about.size.numel():
                raise CheckpointError(f"{self._rule}, got none with a part of {name}")
        return found

    def _read(self, tensors: dict[str, torch.Tensor], **processes: Any) -> None:
        if not tensors:
            return
        import torch.distributed.checkpoint as dcp

        with _told(CheckpointError, self._rule), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it is meant to be
            dcp.load(tensors, storage_reader=dcp.HuggingFaceStorageReader(str(self.folder)), **processes)

    @property
    def _rule(self) -> str:
        return f"resume: {self.folder.name} must have whole safetensors files"


@contextmanager
def _told(kind: type[ReelmError], rule: str) -> Iterator[None]:
    """Raise an error of ours, with the first reason, for those of files and of `torch.distributed.checkpoint`."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        reason, _ = next(iter(error.failures.values()))
        raise kind(f"{rule}: {reason}") from error
    except (SafetensorError, OSError) as error:
        raise kind(f"{rule}: {error}") from error


def in_order(rows: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    """Return rows as one process has them, from those that have an order, if it is one."""
    return rows if order is None else rows[order.argsort()]


def newest_state(run: Path) -> SavedState | None:
    """Return the state of the latest step in the folder of a run, if there is one."""
    folders = sorted(run.glob(f"state-{DIGITS}"))
    return SavedState(folders[-1]) if folders else None


class StateFolders:
    """The states of a run, of which the last ones are kept.

    Where there are several processes, all must make this, and call `begin` and `finish`, in the same order.

    Attributes:
        group: The processes; None where there is one.
    """

    def __init__(self, run: Path, ranks: Ranks, keep: int) -> None:
        self._run, self._ranks, self._keep = run, ranks, keep
        # A group of its own, since its messages are sent beside those of the training.
        self.group = dist.new_group(backend="gloo", timeout=PATIENCE) if ranks.count > 1 else None
        self._thread = ThreadPoolExecutor(1, "state")
        self._writing: tuple[Path, StateValues, Future[Any]] | None = None

    def __enter__(self) -> "StateFolders":
        return self

    def __exit__(self, *_: object) -> None:
        """Finish the state that is being written, so that an error in a later step does not lose it."""
        if self.writing:
            with suppress(Exception):  # the error that is on its way is the one to be told
                self.finish()
        self._thread.shutdown()

    @property
    def writing(self) -> bool:
        """Whether a state has been begun and not finished."""
        return self._writing is not None

    @property
    def written(self) -> bool:
        """Whether `finish` would not wait."""
        return self._writing is not None and self._writing[2].done()

    def begin(self, tensors: Mapping[str, torch.Tensor], values: StateValues) -> None:
        """Begin to write a state; the tensors may change once this has returned.

        Args:
            tensors: The tensors by their names, of which each process may have a part.
            values: The numbers and texts.

        Raises:
            ReelmError: The folder of the run is not writable.
        """
        folder = self._run / f".state-{values.step:08d}"
        if self._ranks.first:
            self._remove_what_a_kill_left()
            check_writable(folder, "out").mkdir()
        self._ranks.wait()
        self._writing = (folder, values, self._write(folder, dict(tensors)))

    def _write(self, folder: Path, tensors: dict[str, torch.Tensor]) -> "Future[Any]":
        if self.group is None:
            return self._thread.submit(atomic_write, folder / WHOLE, *safetensors_content(tensors))
        from torch.distributed.checkpoint import HuggingFaceStorageWriter, async_save

        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        writing: Any = async_save(tensors, storage_writer=writer, process_group=self.group)
        return writing

    def finish(self) -> SavedState:
        """Wait until the state is written, and give it its name.

        Raises:
            OSError, ReelmError: It could not be written by one process, or by one of several, as on a full disk; the
                states before it are as they were.
        """
        assert self._writing is not None
        (folder, values, writing), self._writing = self._writing, None
        path = folder.with_name(folder.name.removeprefix("."))
        try:
            with nullcontext() if self.group is None else _told(ReelmError, f"out: {path.name} could not be written"):
                writing.result()
            if self._ranks.first:
                save_json(folder / VALUES, to_dict(values))
                sync_folder(folder)
                os.replace(folder, path)
                sync_folder(self._run)
        finally:
            if self._ranks.first:
                shutil.rmtree(folder, ignore_errors=True)
        return SavedState(path)

    def forget(self) -> None:
        """Delete all states but the last ones; one that is half deleted has no name that is looked for."""
        for folder in sorted(self._run.glob(f"state-{DIGITS}"))[: -self._keep]:
            hidden = folder.with_name(f".{folder.name}")
            os.replace(folder, hidden)
            shutil.rmtree(hidden, ignore_errors=True)

    def _remove_what_a_kill_left(self) -> None:
        for folder in self._run.glob(f".state-{DIGITS}"):
            shutil.rmtree(folder, ignore_errors=True)
