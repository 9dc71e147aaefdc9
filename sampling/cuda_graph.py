"""Capture computations that repeat, and replay them: CUDA graphs for the passes of a rollout.

    captured = Captured(CudaGraph)
    logits = captured(("step", 1), lambda: model.step(cache, 1))      # captured at the first call, then replayed

A pass of a small model is some hundred kernel launches, and a GPU finishes each before the next one is launched; a
graph launches all of them at once. A captured computation must not read any value on the host, and its tensors must
stay at their addresses: they are changed in place.
"""

from collections.abc import Callable, Hashable
from typing import Protocol

import torch

# Computes a result; at each call its inputs must be at the same addresses.
Computation = Callable[[], torch.Tensor]


class Replayable(Protocol):
    """A computation that is captured when the object is made and runs at every call, with its result in one place."""

    def __init__(self, compute: Computation) -> None: ...

    def __call__(self) -> torch.Tensor:
        """Run the computation once more."""


class CudaGraph:
    """A computation as one CUDA graph."""

    def __init__(self, compute: Computation) -> None:
        # Kernels are compiled and cuBLAS allocates its workspace at the first runs: these must not be captured.
        # torch.cuda.graph asks for warm-up runs on another stream. Running a pass again writes the same values again.
        warm_up = torch.cuda.Stream()
        warm_up.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up):
            for _ in range(2):
                compute()
        torch.cuda.current_stream().wait_stream(warm_up)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result = compute()

    def __call__(self) -> torch.Tensor:
        """Launch the graph, and return the result, which the next call overwrites."""
        self._graph.replay()
        return self._result


class Captured:
    """Computations by their keys, each captured at its first call; without a kind of capture, each simply runs."""

    def __init__(self, capture: type[Replayable] | None) -> None:
        self._capture = capture
        self._replayables: dict[Hashable, Replayable] = {}
        self._results: dict[Hashable, torch.Tensor] = {}

    def __call__(self, key: Hashable, compute: Computation) -> torch.Tensor:
        """Return the result of the computation with this key; where it is captured, its next run overwrites it."""
        if self._capture is None:
            return compute()
        if key not in self._replayables:
            self._replayables[key] = self._capture(compute)
        self._results[key] = self._replayables[key]()
        return self._results[key]

    def owns(self, tensor: torch.Tensor) -> bool:
        """Return whether this is the result of a captured computation, so that another one may read it there."""
        return any(tensor is result for result in self._results.values())

    def forget(self) -> None:
        """Drop all captures: tensors have moved, so that every computation must be captured anew."""
        self._replayables.clear()
        self._results.clear()
