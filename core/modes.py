"""The modes of torch in which reelm computes, whatever the caller has set: so the same call has the same result.

with plain_modes(): ...

@in_plain_modes
def encode(frames): ...
"""

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class _Float32:
    """Keeps torch's default dtype at float32 while any thread is inside; it is one for all threads of a process."""

    def __init__(self) -> None:
        self._lock, self._inside, self._outer = threading.Lock(), 0, torch.float32

    @property
    def changed(self) -> bool:
        """Whether the default dtype is another one outside."""
        return self._outer != torch.float32

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if torch.get_default_dtype() != torch.float32:
                self._outer = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self.changed:
                torch.set_default_dtype(self._outer)
                self._outer = torch.float32


_float32 = _Float32()


@contextlib.contextmanager
def plain_modes() -> Iterator[None]:
    """Hold torch's usual modes: no autocast, float32 and the CPU as defaults, and no inference mode.

    Tensors that are made in inference mode could not be used outside of it. Gradients are recorded or not as before,
    except that inference mode becomes `torch.no_grad`. All modes but the default dtype belong to the calling thread.
    """
    with contextlib.ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_float32)
        # A mode for devices costs time in every operation, so that there is none where none is needed. The question is
        # not torch.get_default_device, which in torch 2.9 is an AttributeError after set_default_device(None).
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        yield


def changes_other_threads() -> bool:
    """Return whether `plain_modes` now holds a default dtype that is not the caller's, for all threads."""
    return _float32.changed


def in_plain_modes(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function to run in `plain_modes`; a generator function has them in each of its steps, not between."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def steps(*args: P.args, **kwargs: P.kwargs) -> Iterator[object]:
            items, end = function(*args, **kwargs), object()
            while True:
                with plain_modes():
                    item = next(items, end)
                if item is end:
                    return
                yield item

        return steps  # type: ignore[return-value]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with plain_modes():
            return function(*args, **kwargs)

    return call
