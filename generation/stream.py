"""`ClipStream`: a clip whose frames come while it is drawn, and whose prompt and controls can change meanwhile.

stream = generator.stream("a blue ring spins", seed=7)
for frames in stream:                                   # (n, H, W, 3) uint8, a latent frame at a time
    if len(stream.tokens) == 5:
        stream.control(prompt="a red ball rolls")       # from the first latent frame that is not begun on
stream.close()
"""

import inspect
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from types import TracebackType

import numpy as np
import torch

from ..core.ahead import prefetch
from ..core.clock import Mark, mark
from ..core.device import can_overlap, thread_modes
from ..core.errors import ReelmError
from ..core.json_values import Json
from ..core.modes import changes_other_threads, in_plain_modes, plain_modes
from ..sampling.engine import LatentFrame
from .options import Controls, Number, Prompt, TemperatureTimes
from .pixels import PixelDecoder
from .pretrained import Pretrained
from .request import Request
from .session import SessionState
from .steering import Change, apply_change, read_change


class ClipStream(Iterator[np.ndarray]):
    """An iterator over the frames (n, H, W, 3) uint8 of a clip as its latent frames complete.

    On a GPU, and where there are spare cores, a thread samples the next latent frame while this one is decoded, unless
    torch's default dtype, which is one for all threads, would have to change for it. The clip is that of
    `VideoGenerator.generate` with the same arguments, unless `control` changes it.
    """

    def __init__(self, parts: Pretrained, request: Request) -> None:
        """Prepare a stream of one clip; nothing is drawn yet."""
        self._parts, self._work = parts, _Work(parts, request)
        self._frames, self._reading = self._work.frames(), threading.RLock()

    def __iter__(self) -> "ClipStream":
        return self

    def __next__(self) -> np.ndarray:
        with self._reading, plain_modes():
            frames_THW3 = None if self._work.closed else next(self._frames)
            if frames_THW3 is None or self._work.closed:  # perhaps by another thread, or by a callback
                self._frames.close()
                raise StopIteration
            return frames_THW3

    def __reduce__(self) -> tuple[object, ...]:
        raise ReelmError("stream: must not be pickled or copied while it is drawn; its tokens and settings can be")

    def __enter__(self) -> "ClipStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def fps(self) -> float:
        """The frames per second."""
        return self._parts.config.fps

    @property
    def prompt(self) -> str:
        """The latest prompt."""
        return self._work.plan.last_prompt

    @property
    def seed(self) -> int:
        """The seed of the noise."""
        return self._work.plan.key.seed

    @property
    def tokens(self) -> np.ndarray:
        """The video tokens (t, h, w) of the frames that were handed out, int64."""
        return self._work.grids()["video"]

    @property
    def segments(self) -> dict[str, np.ndarray]:
        """The tokens (t, *shape) of the other segments of these latent frames, by name."""
        return {name: tokens for name, tokens in self._work.grids().items() if name != "video"}

    @property
    def settings(self) -> Json:
        """The record of the clip's generation, as JSON values; it includes prompts that `control` has set."""
        return self._parts.settings(self._work.request.sampling, self._work.plan)

    @in_plain_modes
    def control(
        self,
        *,
        prompt: Prompt | None = None,
        temperature: Number | TemperatureTimes | None = None,
        controls: Controls | None = None,
    ) -> None:
        """Change the clip from the first latent frame that is not begun on, if there is one.

        Args:
            prompt: The new prompt; second 0 of a schedule is that latent frame.
            temperature: The new temperature, above 0, or a schedule.
            controls: The tokens (t, *shape) of given segments for the latent frames from that one on, by name.

        Raises:
            ReelmError: An argument breaks its rule; the stream continues as before.
        """
        change = read_change(
            self._parts, self._work.request.sampling, self.seed, prompt=prompt, temperature=temperature,
            controls=controls,
        )  # fmt: skip
        self._work.changes.append(change)

    @property
    def session(self) -> SessionState:
        """The session of the frames that were handed out, from which `continue_clip` draws what would have followed."""
        grids = {name: torch.from_numpy(tokens) for name, tokens in self._work.grids().items()}
        return SessionState.from_plan(self._work.plan, grids, {}, self.settings)

    def close(self) -> None:
        """Stop the work; the stream yields no more frames.

        Any thread may call this. Where another one is reading, that one ends with the latent frame that it draws.
        """
        self._work.closed = True
        if self._reading.acquire(blocking=False):
            try:
                if inspect.getgeneratorstate(self._frames) != inspect.GEN_RUNNING:  # else a callback asks for it
                    self._frames.close()
            finally:
                self._reading.release()


class _Work:
    """The work of a stream.

    It has no reference to its stream: the generator of its frames holds it, and would otherwise keep the stream alive
    after its user has dropped it.

    Attributes:
        request: The original request.
        plan: The plan of the clip, with all changes so far.
        changes: What is to change at the first latent frame that is not begun.
        closed: Whether nothing more is to be drawn.
    """

    def __init__(self, parts: Pretrained, request: Request) -> None:
        self._parts, self.request, self.plan = parts, request, request.plans[0]
        self.changes: list[Change] = []
        self.closed = False
        self._tokens: list[torch.Tensor] = []

    def grids(self) -> dict[str, np.ndarray]:
        """Return the tokens (t, *shape) of the frames that were handed out, by segment."""
        layout = self._parts.lm.layout
        none_S = torch.zeros((0, layout.frame_size), dtype=torch.int32)
        tokens_tS = torch.stack(self._tokens) if self._tokens else none_S
        return {name: grid.long().numpy() for name, grid in layout.unpack(tokens_tS).items()}

    def _sampled(self, modes: Callable[[], AbstractContextManager[object]]) -> Iterator[tuple[LatentFrame, Mark]]:
        """Yield the latent frames, each with the time in the device's work at which it was complete.

        All work on the device is done in the modes of the thread that asks for the frames.
        """
        device = self._parts.lm.device
        with modes():
            engine = self.request.engine(self._parts)
            clip = engine.add(self.plan)
        while not (engine.ended(clip) or self.closed):
            with modes():
                while self.changes:
                    self.plan = apply_change(engine, clip, self.changes.pop(0), self.request.sampling)
                frames = engine.step()
                complete = mark(device)
            for frame in frames:
                yield frame, complete

    def frames(self) -> Generator[np.ndarray, None, None]:
        """Yield the frames (n, H, W, 3) uint8 of every latent frame."""
        device, layout = self._parts.lm.device, self._parts.lm.layout
        decoder = PixelDecoder(self._parts.tokenizer)
        # On a GPU, pixels are decoded on a CUDA stream of their own, which waits for the tokens but not for later work.
        pixels = torch.cuda.Stream(device) if device.type == "cuda" else None
        sampled = self._sampled(thread_modes(device))
        overlap = can_overlap(device) and not changes_other_threads()
        for frame, complete in prefetch(sampled) if overlap else sampled:
            if pixels is not None and isinstance(complete, torch.cuda.Event):
                pixels.wait_event(complete)
                frame.tokens_S.record_stream(pixels)
            with torch.cuda.stream(pixels):
                decoded = decoder.decode({0: layout.unpack(frame.tokens_S)["video"]})
            self._tokens.append(frame.tokens_S.to("cpu", torch.int32))
            yield decoded[0]
