"""`PlaySession`: a world that is played. Each step takes the keys that are held now and gives the next pictures.

with generator.play("a coin run at night", seed=7) as session:
    show(session.pictures)                              # (n, H, W, 3) uint8: the picture that is there at first
    while playing:
        show(session.step(keyboard.held()))             # {"d", "jump"}
generator.generate("a coin run at night", seed=7, keys=session.held)        # the same clip

While a picture is shown, the next ones are drawn under the keys that were held last, as by Next-Frame Diffusion (arXiv
2506.01380). If others are held then, what was drawn is dropped and drawn anew. Tokens depend on the seed, the position
and what came before alone, so that this changes when pictures are there, and not what they show.
"""

import dataclasses
import threading
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeAlias, Unpack

import numpy as np
import torch

from ..core.controls import ControlTrack, join_tracks
from ..core.device import thread_modes
from ..core.errors import ReelmError, require
from ..core.json_values import Json
from ..core.modes import in_plain_modes
from .admission import admit
from .continuation import inherit
from .held import held_now, turns_now
from .options import Number, Prompt
from .pixels import PixelDecoder
from .play_options import PlayOptions
from .pretrained import Pretrained, controller_of
from .request import Request, make_request, unmoved_if_refused
from .session import SessionState
from .source import Source, read_source

CLIP = 0  # the number of the only clip in the engine
Held: TypeAlias = str | Collection[str] | ControlTrack


class _Drawn(NamedTuple):
    """A latent frame, its pictures, and what was held before each of them."""

    track: ControlTrack
    tokens_S: torch.Tensor
    pictures_nHW3: np.ndarray


class PlaySession:
    """A clip that goes on picture by picture under the keys of a player.

    Attributes:
        ahead: Whether the next pictures are drawn while these are shown.
        dropped: The latent frames that were drawn, or begun, under keys that were not held then.
    """

    def __init__(
        self, parts: Pretrained, request: Request, source: Source | None = None, *, ahead: bool = True
    ) -> None:
        """Begin with latent frame 0, or after the frames of a source; a thread draws from here on."""
        self._parts, self._request, self.ahead, self.dropped = parts, request, ahead, 0
        self._controller = controller_of(parts.config.lm)
        layout = parts.lm.layout
        self._past_tS = torch.zeros((0, layout.frame_size), dtype=torch.int64)
        if source is not None:
            self._past_tS = layout.pack(source.grids)
        self._tokens: list[torch.Tensor] = []
        self._tracks: list[ControlTrack] = []
        self._plan, self._source = request.plans[0], source
        self._cancelled, self._closed, self._lock = threading.Event(), False, threading.RLock()
        self._modes, self._pool = thread_modes(parts.lm.device), ThreadPoolExecutor(1, "play")
        try:
            self.pictures: np.ndarray = self._pool.submit(self._begin).result()
        except BaseException:
            self._pool.shutdown(wait=False)
            raise
        self._coming: Future[_Drawn | None] | None = None
        self._guess(ControlTrack((frozenset(),) * self._controller.pictures))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[object, ...]:
        raise ReelmError("play: must not be pickled or copied while it is drawn; its session can be")

    @property
    def fps(self) -> float:
        """The pictures per second."""
        return self._parts.config.fps

    @property
    def prompt(self) -> str:
        """The prompt."""
        return self._plan.last_prompt

    @property
    def seed(self) -> int:
        """The seed of the noise."""
        return self._plan.key.seed

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the keys that the model knows."""
        return self._controller.keys

    @property
    def step_pictures(self) -> int:
        """The pictures that a step gives."""
        return self._controller.pictures

    @property
    def held(self) -> ControlTrack:
        """What was held during each picture of this play so far: `generate(keys=held)` makes the same clip.

        Where a clip or a picture is played on, it is `continue_clip(clip, keys=held)`.
        """
        return join_tracks(self._tracks)

    @property
    def past(self) -> int:
        """The latent frames of the clip that is played on."""
        return len(self._past_tS)

    def steps(self, first: int = 0) -> list[ControlTrack]:
        """Return what was held in each step so far, from the one of this index on."""
        return self._tracks[first:]

    @property
    def settings(self) -> Json:
        """The record of the clip's generation, as JSON values."""
        detailed = self._source is not None and self._source.detailed
        return self._parts.settings(self._request.sampling, self._plan, detail=detailed)

    @property
    def session(self) -> SessionState:
        """The session of all pictures so far, from which `play(clip=session)` goes on."""
        grids = self._parts.lm.layout.unpack(torch.cat([self._past_tS, *(each[None] for each in self._tokens)]))
        return SessionState.from_plan(self._plan, grids, {}, self.settings)

    @property
    def stats(self) -> dict[str, Any]:
        """The statistics of drawing so far, with what was drawn ahead and dropped; `Video.stats` has the names."""
        stats = self._engine.stats
        return dict(stats.report(self._engine.decoder, 0.0, stats.model_seconds + stats.draw_seconds, 0.0))

    def check(self, track: ControlTrack) -> None:
        """Check that the model has all keys and axes of what is to be held.

        Raises:
            ReelmError: It has not; the nearest name is named.
        """
        self._controller.check(track)

    @in_plain_modes
    def step(self, keys: Held = (), axes: Mapping[str, Number] | None = None) -> np.ndarray:
        """Return the next pictures (n, H, W, 3) uint8, in which the keys show.

        Args:
            keys: The names of the keys that are held now, or "none"; or what is held before each of the pictures.
            axes: The turn of each axis during each of the pictures, by name.

        Raises:
            ReelmError: The session is closed, or a name is unknown (the nearest one is named); nothing is lost.
        """
        with self._lock:
            require(not self._closed, "play", "must not be closed", "a step")
            track = self._track(keys, axes)
            drawn = self._take(track)
            self._tracks.append(track)
            self._tokens.append(drawn.tokens_S)
            self.pictures = drawn.pictures_nHW3
            self._guess(track)
            return self.pictures

    def expect(self, keys: Held = (), axes: Mapping[str, Number] | None = None) -> None:
        """Draw the next pictures under these keys from now on, which a step will most likely have.

        Args:
            keys, axes: As for `step`.

        Raises:
            ReelmError: As for `step`.
        """
        with self._lock:
            require(not self._closed, "play", "must not be closed", "keys")
            track = self._track(keys, axes)
            if self.ahead and not self._same(self._guessed, track):
                self._drop()
                self._guess(track)

    def ready(self, keys: Held = (), axes: Mapping[str, Number] | None = None) -> bool:
        """Return whether the pictures for these keys are drawn already, so that a step need not wait."""
        coming = self._coming
        return coming is not None and coming.done() and self._same(self._guessed, self._track(keys, axes))

    def is_drawing(self) -> bool:
        """Return whether the thread computes now."""
        coming = self._coming
        return not self._closed and coming is not None and not coming.done()

    def close(self) -> None:
        """End the play; the work of the thread ends with the pass that it computes."""
        self._closed = True
        self._cancelled.set()
        self._pool.shutdown()

    def _take(self, track: ControlTrack) -> _Drawn:
        """Return the latent frame for these keys: the one that was drawn ahead, or a new one."""
        coming = self._coming
        if coming is not None and self._same(self._guessed, track):
            self._coming = None
        else:
            self._drop()
            coming = self._submit(track)
        drawn = coming.result()
        if drawn is None:
            raise ReelmError("play: must not be closed, got a step that was closed")
        return drawn

    def _submit(self, track: ControlTrack) -> "Future[_Drawn | None]":
        """Have the thread draw the next latent frame under these keys."""
        self._cancelled = threading.Event()
        return self._pool.submit(self._draw, track, self._cancelled)

    def _track(self, keys: Held, axes: Mapping[str, Number] | None) -> ControlTrack:
        """Return what is held before each picture of the next latent frame."""
        pictures = self._controller.pictures
        if isinstance(keys, ControlTrack):
            require(len(keys) == pictures, "keys", f"must be of {pictures} pictures, those of a step", len(keys))
            require(axes is None, "axes", "must not be given with a track, which has its own", axes)
            track = keys
        else:
            turns = turns_now(axes, pictures)
            track = ControlTrack((held_now(keys, self._controller.keys),) * pictures, turns)
        self._controller.check(track)
        return track

    def _drop(self) -> None:
        """Let go of what is drawn ahead, if anything is; the next draw takes it back."""
        coming, self._coming = self._coming, None
        if coming is not None:
            self._cancelled.set()
            self.dropped += 1

    def _same(self, track: ControlTrack, other: ControlTrack) -> bool:
        """Return whether two tracks are the same tokens."""
        mine, others = (self._controller.ids(each) for each in (track, other))
        return all(torch.equal(mine[name], others[name]) for name in mine)

    def _guess(self, track: ControlTrack) -> None:
        """Begin to draw the next pictures under these keys."""
        self._guessed = track
        if self.ahead and not self._closed:
            self._coming = self._submit(track)

    # What the thread does.

    def _begin(self) -> np.ndarray:
        """Make the engine, and return the first pictures, or the last of the source."""
        with self._modes():
            parts, source, known = self._parts, self._source, len(self._past_tS)
            self._engine, self._decoder = self._request.engine(parts), PixelDecoder(parts.tokenizer)
            plan = dataclasses.replace(self._plan, latent_frames=max(1, known))
            self._engine.add(plan, self._past_tS if known else None, None if source is None else source.cache)
            frames = parts.lm.layout.unpack(self._past_tS)["video"][-1 - parts.tokenizer.memory :]
            # The decoder depends on the last few latent frames alone.
            shown = [self._decoder.decode({CLIP: tokens_hw})[CLIP] for tokens_hw in frames]
            if source is None:
                tokens_S = self._complete(self._cancelled)
                assert tokens_S is not None
                self._tokens.append(tokens_S)
                shown.append(self._pixels(tokens_S))
            # The decoder's state after so many latent frames; that of the newest one and the one before are kept.
            self._states = {max(1, known): self._decoder.state(CLIP)}
            return shown[-1]

    def _draw(self, track: ControlTrack, cancelled: threading.Event) -> _Drawn | None:
        """Return the next latent frame under these keys; None where it is cancelled."""
        with self._modes():
            start = len(self._past_tS) + len(self._tokens)
            self._engine.rewind(CLIP, start)  # what was drawn, or begun, and not taken
            self._decoder.restore(CLIP, self._states[start])
            self._engine.feed(CLIP, self._controller.tokens(track, first=False))
            self._engine.change(CLIP, dataclasses.replace(self._engine.plan(CLIP), latent_frames=start + 1))
            tokens_S = self._complete(cancelled)
            if tokens_S is None:
                return None
            pictures = self._pixels(tokens_S)
            self._states = {start: self._states[start], start + 1: self._decoder.state(CLIP)}
            return _Drawn(track, tokens_S, pictures)

    def _complete(self, cancelled: threading.Event) -> torch.Tensor | None:
        """Return the tokens of the clip's last latent frame when they are complete; None where they are cancelled."""
        while not cancelled.is_set():
            for frame in self._engine.step():
                return frame.tokens_S.cpu()
        return None

    def _pixels(self, tokens_S: torch.Tensor) -> np.ndarray:
        """Return the pictures of the next latent frame."""
        return self._decoder.decode({CLIP: self._parts.lm.layout.unpack(tokens_S)["video"]})[CLIP]


def begin_play(parts: Pretrained, prompt: Prompt | None, **options: Unpack[PlayOptions]) -> PlaySession:
    """Begin a clip that goes on under the keys of a player; each `step` of it gives the next pictures.

    Args:
        parts: The model.
        prompt: The prompt of the clip, as in `generate`; of a clip that is played on, its own unless given.
        options: The options of `PlayOptions`.

    Raises:
        ReelmError: The model is not played by keys, or an argument is refused; nothing was computed.
    """
    require(bool(controller_of(parts.config.lm)), "model", "must be one that is played by keys", parts.name)
    clip, image, ahead = options.get("clip"), options.get("image"), options.get("ahead", True)
    require(clip is None or image is None, "clip, image", "must not both be given", "both")
    require(isinstance(ahead, bool), "ahead", "must be True or False", ahead)
    start, argument = (clip, "clip") if image is None else (image, "image")
    with unmoved_if_refused(options):
        request, source = make_request(parts, "play", prompt, options, continuing=start is not None), None
        if start is not None:
            source = read_source(parts, start, options.get("fit", "crop"), argument)
            request, source = inherit(parts, request, source, {**options, "prompt": prompt})
        admit(parts, request, whole=False, continuing=source is not None)
    return PlaySession(parts, request, source, ahead=ahead)
