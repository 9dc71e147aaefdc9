"""Work that is the same every time, captured once and replayed: CUDA graphs, for the passes of a rollout.

    captured = Captured(CudaGraph)
    logits = captured(("step", 1), lambda: model.step(cache, 1))      # captured at the first call, then replayed

A small model's pass is some hundred launches, and a GPU is done with each before the next one has been asked for; a
graph asks for all at once. What is captured must not read anything on the host, and its tensors must stay where they
are: what changes, changes in place.
"""

from collections.abc import Callable, Hashable
from typing import Protocol

import torch

# Runs, and returns its result; called again it must find its inputs where they were.
Work = Callable[[], torch.Tensor]


class Replayable(Protocol):
    """Captures work when it is made, and does it when it is called; the result always lies in the same place."""

    def __init__(self, work: Work) -> None: ...

    def __call__(self) -> torch.Tensor:
        """Do the work once more."""


class CudaGraph:
    """Work as one CUDA graph."""

    def __init__(self, work: Work) -> None:
        # What is only done at first must not be captured: compiling kernels, cuBLAS's workspace. It is done on another
        # stream, as torch.cuda.graph asks for. A pass may be done again: it writes what it wrote.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = work()

    def __call__(self) -> torch.Tensor:
        """Launch the graph; the result is overwritten by the next call."""
        self._graph.replay()
        return self._result


class Captured:
    """Works by their keys, each captured when it first comes."""

    def __init__(self, capture: type[Replayable]) -> None:
        self._capture = capture
        self._made: dict[Hashable, Replayable] = {}
        self._results: dict[Hashable, torch.Tensor] = {}

    def __call__(self, key: Hashable, work: Work) -> torch.Tensor:
        """The result of this work, overwritten the next time."""
        if key not in self._made:
            self._made[key] = self._capture(work)
        self._results[key] = self._made[key]()
        return self._results[key]

    def owns(self, tensor: torch.Tensor) -> bool:
        """Whether this is the result of a work, so that another one may count on finding it there."""
        return any(tensor is result for result in self._results.values())

    def forget(self) -> None:
        """Capture everything anew: tensors have moved."""
        self._made.clear()
        self._results.clear()
