"""`ClipStream`: a clip whose frames come while it is made, and that can be told how to go on.

stream = generator.stream("a blue ring spins", seed=7)
for frames in stream:                                   # (n, H, W, 3) uint8, a latent frame at a time
    if len(stream.tokens) == 5:
        stream.control(prompt="a red ball rolls")       # from the next latent frame on that is not begun
stream.close()
"""

import dataclasses
from collections.abc import Generator, Iterator
from types import TracebackType

import numpy as np
import torch

from ..core.ahead import ahead
from ..core.clock import mark
from ..core.device import modes_of, two_at_once
from ..core.errors import require
from ..sampling.engine import Engine, LatentFrame
from .options import Controls, Number, Prompt, TemperatureTimes
from .pixels import PixelDecoder
from .pretrained import Pretrained
from .request import Request, make_request
from .schedule import latest


class ClipStream(Iterator[np.ndarray]):
    """Iterates over the frames (n, H, W, 3) uint8 of a clip as its latent frames complete.

    The next latent frame is sampled while this one becomes pixels, by a thread, on a GPU and where there are cores to
    spare. The clip is that of `VideoGenerator.generate` with the same arguments, unless `control` changes it.
    """

    def __init__(self, parts: Pretrained, request: Request) -> None:
        """Prepare a stream of one clip; nothing is drawn yet."""
        self._parts, self._work = parts, _Work(parts, request)
        self._frames = self._work.frames()

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
        return latest(self._work.plan.prompts)

    @property
    def seed(self) -> int:
        """What it is drawn from."""
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
    def settings(self) -> dict[str, object]:
        """What the clip records of how it is made, as JSON values; prompts that `control` changed are among them."""
        return self._parts.settings(self._work.request.sampling, self._work.plan)

    def control(
        self,
        *,
        prompt: Prompt | None = None,
        temperature: Number | TemperatureTimes | None = None,
        controls: Controls | None = None,
    ) -> None:
        """Have the clip go on in another way from the next latent frame on that is not begun, if it has one.

        Args:
            prompt: what is to come; second 0 of a schedule is that latent frame.
            temperature: with which it is drawn from then on, above 0, or a schedule.
            controls: the tokens (t, *shape) of given segments for the latent frames from then on, by name.

        Raises:
            ReelmError: an argument breaks its rule; the stream goes on as before.
        """
        given = {"temperature": temperature, "controls": controls}
        options = {name: value for name, value in given.items() if value is not None}
        wish = make_request(self._parts, "stream", prompt, {**options, "seed": self.seed}, added=True)
        require(len(wish.plans) == 1, "prompt", "must be a single one to stream", prompt)
        drawn = temperature is None or wish.sampling.temperature > 0
        require(drawn, "temperature", "must be above 0 where it changes", temperature)
        kinds = frozenset(options) | ({"prompt"} if prompt is not None else set())
        self._work.wishes.append((wish, kinds))

    def close(self) -> None:
        """Stop the work; the stream gives no more frames."""
        self._frames.close()


class _Work:
    """The clip of a stream as it is made.

    It does not know its stream: its frames hold it, and would keep a stream from ending where its user drops it.

    Attributes:
        request: as it was made.
        plan: what the clip is to become, with what was changed.
        wishes: what is to be changed at the next latent frame that is not begun, and which parts of it.
    """

    def __init__(self, parts: Pretrained, request: Request) -> None:
        self._parts, self.request, self.plan = parts, request, request.plans[0]
        self.wishes: list[tuple[Request, frozenset[str]]] = []
        self._tokens: list[torch.Tensor] = []

    def grids(self) -> dict[str, np.ndarray]:
        """The tokens (t, *shape) of the frames that were handed out, by segment."""
        layout = self._parts.lm.layout
        tokens_tS = (
            torch.stack(self._tokens) if self._tokens else torch.zeros((0, layout.frame_size), dtype=torch.int32)
        )
        return {name: grid.long().numpy() for name, grid in layout.unpack(tokens_tS).items()}

    def _sampled(self) -> Iterator[tuple[LatentFrame, "float | torch.cuda.Event"]]:
        """The latent frames, each with the moment in the device's work at which it was there."""
        engine, device = self.request.engine(self._parts), self._parts.lm.device
        clip, modes = engine.add(self.plan), modes_of(device)
        while not engine.ended(clip):
            while self.wishes:
                self._change(engine, clip, *self.wishes.pop(0))
            with modes():
                frames = engine.step()
                moment = mark(device)
            for frame in frames:
                yield frame, moment

    def _change(self, engine: Engine, clip: int, wish: Request, kinds: frozenset[str]) -> None:
        """Change the plan from the first latent frame on that is not begun."""
        start, new, plan = engine.next_frame(clip), wish.plans[0], self.plan
        if start == plan.latent_frames:  # all of it is begun
            return
        if "prompt" in kinds:
            before = tuple(entry for entry in plan.prompts if entry[0] < start)
            plan = dataclasses.replace(plan, prompts=before + tuple((start + at, text) for at, text in new.prompts))
        if "temperature" in kinds:
            coming = new.temperatures or ((0, wish.sampling.temperature),)
            before_t = tuple(entry for entry in plan.temperatures if entry[0] < start)
            if not before_t and start:
                before_t = ((0, self.request.sampling.temperature),)
            plan = dataclasses.replace(plan, temperatures=before_t + tuple((start + at, t) for at, t in coming))
        self.plan = plan
        engine.change(clip, plan)
        if "controls" in kinds:
            engine.feed(clip, new.controls)
            self.plan = engine.plan(clip)

    def frames(self) -> Generator[np.ndarray, None, None]:
        """The frames (n, H, W, 3) uint8 of every latent frame."""
        device, layout = self._parts.lm.device, self._parts.lm.layout
        decoder = PixelDecoder(self._parts.tokenizer)
        # On a GPU pixels are made on a stream of their own, which waits for the tokens and for nothing after them.
        aside = torch.cuda.Stream(device) if device.type == "cuda" else None
        sampled = self._sampled()
        for frame, moment in ahead(sampled) if two_at_once(device) else sampled:
            if aside is not None and isinstance(moment, torch.cuda.Event):
                aside.wait_event(moment)
                frame.tokens_S.record_stream(aside)
            with torch.cuda.stream(aside):
                made = decoder.decode({0: layout.unpack(frame.tokens_S)["video"]})
            self._tokens.append(frame.tokens_S.to("cpu", torch.int32))
            yield made[0]
