"""`ClipStream`: a clip whose frames come while it is made, and that can be told how to go on.

stream = generator.stream("a blue ring spins", seed=7)
for frames in stream:                                   # (n, H, W, 3) uint8, a latent frame at a time
    if len(stream.tokens) == 5:
        stream.control(prompt="a red ball rolls")       # from the next latent frame on that is not begun
stream.close()
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch

from ..core.ahead import ahead
from ..core.clock import mark
from ..core.device import modes_of, two_at_once
from ..sampling.engine import Engine, LatentFrame
from ..sampling.plan import ClipPlan
from .pixels import PixelDecoder
from .pretrained import Pretrained
from .request import Request, make_request


class ClipStream(Iterator[np.ndarray]):
    """Iterates over the frames (n, H, W, 3) uint8 of a clip as its latent frames complete.

    The next latent frame is sampled while this one becomes pixels, by a thread, on a GPU and where there are cores to
    spare. The clip is that of `VideoGenerator.generate` with the same arguments, unless `control` changes it.
    """

    def __init__(self, parts: Pretrained, request: Request) -> None:
        """Prepare a stream of one clip; nothing is drawn yet."""
        self._parts, self._request = parts, request
        self._engine: Engine | None = None
        self._plan: ClipPlan = request.plans[0]
        self._wishes: list[tuple[Request, frozenset[str]]] = []
        self._tokens: list[torch.Tensor] = []
        self._frames = self._decoded()

    def __iter__(self) -> "ClipStream":
        return self

    def __next__(self) -> np.ndarray:
        return next(self._frames)

    def __enter__(self) -> "ClipStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def fps(self) -> float:
        """Frames a second."""
        return self._parts.config.fps

    @property
    def prompt(self) -> str:
        """The latest prompt."""
        return self._plan.prompts[-1][1]

    @property
    def seed(self) -> int:
        """What it is drawn from."""
        return self._plan.key.seed

    @property
    def tokens(self) -> np.ndarray:
        """The video tokens (t, h, w) of the frames that were handed out, int64."""
        return self._grids()["video"]

    @property
    def segments(self) -> dict[str, np.ndarray]:
        """The tokens (t, *shape) of the other segments of these latent frames, by name."""
        return {name: tokens for name, tokens in self._grids().items() if name != "video"}

    @property
    def settings(self) -> dict[str, Any]:
        """What the clip records of how it is made, as JSON values; prompts that `control` changed are among them."""
        return self._parts.settings(self._request.sampling, self._plan)

    def control(
        self,
        *,
        prompt: str | Sequence[tuple[float, str]] | None = None,
        temperature: float | Sequence[tuple[float, float]] | None = None,
        controls: Mapping[str, np.ndarray | torch.Tensor | Sequence[Any]] | None = None,
    ) -> None:
        """Have the clip go on in another way from the next latent frame on that is not begun.

        Args:
            prompt: what is to come; second 0 of a schedule is that latent frame.
            temperature: with which it is drawn from then on, or a schedule.
            controls: the tokens (t, *shape) of given segments for the latent frames from then on, by name.

        Raises:
            ReelmError: an argument breaks its rule; the stream goes on as before.
        """
        given = {"temperature": temperature, "controls": controls}
        options = {name: value for name, value in given.items() if value is not None}
        wish = make_request(self._parts, "stream", prompt, {**options, "seed": self.seed}, added=True)
        kinds = frozenset(options) | ({"prompt"} if prompt is not None else set())
        self._wishes.append((wish, kinds))

    def close(self) -> None:
        """Stop the work; the stream gives no more frames."""
        self._frames.close()

    def _grids(self) -> dict[str, np.ndarray]:
        layout = self._parts.lm.layout
        tokens_tS = (
            torch.stack(self._tokens) if self._tokens else torch.zeros((0, layout.frame_size), dtype=torch.int32)
        )
        return {name: grid.long().numpy() for name, grid in layout.unpack(tokens_tS).items()}

    def _sampled(self) -> Iterator[tuple[LatentFrame, Any]]:
        """The latent frames, each with the moment in the device's work at which it was there."""
        engine, device = self._request.engine(self._parts), self._parts.lm.device
        clip, modes = engine.add(self._plan), modes_of(device)
        while not engine.ended(clip):
            while self._wishes:
                self._change(engine, clip, *self._wishes.pop(0))
            with modes():
                frames = engine.step()
                moment = mark(device)
            for frame in frames:
                yield frame, moment

    def _change(self, engine: Engine, clip: int, wish: Request, kinds: frozenset[str]) -> None:
        """Change the plan from the first latent frame on that is not begun."""
        start, new, plan = engine.next_frame(clip), wish.plans[0], self._plan
        if "prompt" in kinds:
            before = tuple(entry for entry in plan.prompts if entry[0] < start)
            plan = dataclasses.replace(plan, prompts=before + tuple((start + at, text) for at, text in new.prompts))
        if "temperature" in kinds:
            coming = new.temperatures or ((0, wish.sampling.temperature),)
            before_t = tuple(entry for entry in plan.temperatures if entry[0] < start)
            if not before_t and start:
                before_t = ((0, self._request.sampling.temperature),)
            plan = dataclasses.replace(plan, temperatures=before_t + tuple((start + at, t) for at, t in coming))
        self._plan = plan
        engine.change(clip, plan)
        if "controls" in kinds:
            engine.feed(clip, new.controls)
            self._plan = engine.plan(clip)

    def _decoded(self) -> Iterator[np.ndarray]:
        device, layout = self._parts.lm.device, self._parts.lm.layout
        decoder = PixelDecoder(self._parts.tokenizer)
        # On a GPU pixels are made on a stream of their own, which waits for the tokens and for nothing after them.
        aside = torch.cuda.Stream(device) if device.type == "cuda" else None
        sampled = self._sampled()
        for frame, moment in ahead(sampled) if two_at_once(device) else sampled:
            if aside is not None:
                aside.wait_event(moment)
                frame.tokens_S.record_stream(aside)
            with torch.cuda.stream(aside):
                made = decoder.decode({0: layout.unpack(frame.tokens_S)["video"]})
            self._tokens.append(frame.tokens_S.to("cpu", torch.int32))
            yield made[0]
