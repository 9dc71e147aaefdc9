"""A job that is drawn or waits, and what its viewers see of it.

    run = Run(jobs, job, clip, parts, folder, Limits())
    scheduler.add(run.drawing)
    async for item in run.hub.watch(): ...                  # `Accepted` tokens and `DrawnFrame`s

Each latent frame is appended to a file as it is complete; a run that begins again reads them.
"""

import dataclasses
import threading
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from ..core.errors import require
from ..generation.pixels import decode_clips
from ..generation.pretrained import Pretrained
from ..generation.video import Video
from ..sampling.plan import ClipPlan
from .clip_request import AskedClip
from .drawing import Drawing, DrawnFrame
from .hub import Hub
from .job_store import TOKENS, Job
from .limits import Limits


class Accepted(NamedTuple):
    """The tokens that a pass has accepted, of which the first has this position in the clip."""

    first: int
    tokens: list[int]


class Owner(Protocol):
    """Whoever keeps a job; the threads of the scheduler call it."""

    def begin(self, run: "Run") -> None:
        """Keep that a job has begun."""

    def keep_prompts(self, run: "Run") -> None:
        """Keep the prompts of a clip that was changed."""

    def finish(self, run: "Run", error: Exception | None) -> None:
        """Have the clip written, unless it is to be gone on with later."""


class Run:
    """A job that is drawn or waits: the watcher of its drawing.

    Attributes:
        hub: All that was drawn since the server began with it.
        plan: The plan of its clip, with all changes.
        first_frame: The latent frame at which `hub` begins.
        stopping: Whether the clip ends with the latent frames that it has.
        deleted: Whether nobody wants it any more.
        parked: Whether it is left until somebody watches it again.
        viewers: How many watch it.
        passes: The passes that have accepted tokens of the clip.
        shows_tokens: Whether a viewer looks at the tokens, too: else none are handed on, since that wakes all viewers
            at each pass.
        over: Set when nothing more is done for it.
    """

    def __init__(
        self, owner: Owner, job: Job, clip: AskedClip, parts: Pretrained, folder: Path, limits: Limits
    ) -> None:
        """Prepare the drawing of a job, after what was drawn of it before.

        Args:
            owner: Whoever keeps the job.
            job: The job.
            clip: The clip that is asked for.
            parts: The model.
            folder: The folder of the job.
            limits: The limits of the server; a clip without an end is ended with the longest length.
        """
        self.hub: Hub[Accepted | DrawnFrame] = Hub()
        self.job, self.clip, self.plan, self.parts = job, clip, clip.plan, parts
        self.stopping, self.deleted, self.parked, self.viewers = False, False, False, 0
        self.over, self.passes, self.shows_tokens = threading.Event(), 0, False
        self._owner, self._file, self._limits = owner, folder / TOKENS, limits
        past_tS = clip.past(parts, _read_tokens(self._file, parts.lm.layout.frame_size))
        options = dict[str, Any](clip.asked["options"])  # type: ignore[arg-type]
        self.first_frame, self._tokens = len(past_tS), [*past_tS.to(torch.int32)]
        self.drawing = Drawing(
            clip.request, self, fps=self.parts.config.fps, live=for_viewers(job), past_tS=past_tS,
            decoder=options.get("decoder") or "auto", block_size=options.get("block_size"),
        )  # fmt: skip

    @property
    def latent_frames(self) -> int:
        """The latent frames of the clip so far."""
        return len(self._tokens)

    @property
    def given_frames(self) -> int:
        """The latent frames of the clip that it continues."""
        return 0 if self.clip.source is None else len(self.clip.source.tokens_thw)

    @property
    def most_frames(self) -> int:
        """The latent frames with which the clip ends, or is ended where it has no end."""
        most = max(1, int(self._limits.seconds * self.parts.config.fps))
        return self.plan.latent_frames or self.parts.tokenizer.compression.latent_frames(most)

    def pictures(self, first: int) -> np.ndarray:
        """Return the pictures (T, H, W, 3) of the latent frames from this one to the beginning of the hub."""
        tokens_tS = torch.stack(self._tokens[: self.first_frame]).long()
        grids = self.parts.lm.layout.unpack(tokens_tS)
        return decode_clips(self.parts.tokenizer, [grids["video"]], first)[0]

    def video(self) -> Video:
        """Return the clip of the latent frames so far, as the generator would.

        What was shown is not decoded again, unless the clip continues another one, whose detail it keeps.
        """
        plan, tokens_tS = dataclasses.replace(self.plan, latent_frames=self.latent_frames), self.tokens_tS
        shown = [item.pictures_nHW3 for item in self.hub.items if isinstance(item, DrawnFrame)]
        if self.clip.source is not None or not shown:
            return self.clip.video(self.parts, plan, tokens_tS)
        before = [self.pictures(0)] if self.first_frame else []
        return self.clip.video(self.parts, plan, tokens_tS, np.concatenate(before + shown))

    @property
    def progress(self) -> int:
        """How much of what is to be drawn of the clip is drawn, in per cent; 0 for a clip without an end."""
        given, ends = self.given_frames, self.plan.latent_frames
        return 0 if ends is None else 100 * (self.latent_frames - given) // max(1, ends - given)

    @property
    def tokens_tS(self) -> torch.Tensor:
        """All latent frames of the clip so far, in writing order."""
        size = self.parts.lm.layout.frame_size
        return torch.stack(self._tokens).long() if self._tokens else torch.zeros((0, size), dtype=torch.int64)

    # What the threads of the scheduler call.

    def tokens(self, first: int, tokens_n: torch.Tensor) -> None:
        """Hand tokens on to the viewers.

        Raises:
            ReelmError: The clip was drawn for longer than is allowed, which ends it.
        """
        most, spent = self._limits.drawing_seconds, self.drawing.drawn_seconds
        require(spent <= most, "clip", f"must be drawn in at most {most:g} s", round(spent, 1))
        if self.job.status == "queued":
            self._owner.begin(self)
        self.passes += 1
        if self.shows_tokens:
            self.hub.put(Accepted(first, tokens_n.tolist()))

    def frame(self, frame: DrawnFrame) -> None:
        """Keep a latent frame, and hand it on to the viewers."""
        append_tokens(self._file, frame.tokens_S)
        self._tokens.append(frame.tokens_S)
        self.hub.put(frame)
        if self.stopping or self.latent_frames == self.most_frames:
            self.stopping = True
            self.drawing.cancel()

    def changed(self, plan: ClipPlan) -> None:
        """Keep the prompts of a clip that was changed, before it is drawn under them."""
        self.plan = dataclasses.replace(plan, latent_frames=self.plan.latent_frames)
        self._owner.keep_prompts(self)

    def ended(self, error: Exception | None) -> None:
        """Have the clip written."""
        self._owner.finish(self, error)


def for_viewers(job: Job) -> bool:
    """Return whether a clip is drawn while somebody watches it, and only then."""
    return bool(job.asked.get("live") or job.asked.get("endless"))


def append_tokens(path: Path, tokens_tS: torch.Tensor) -> None:
    """Add latent frames in writing order to the file of a clip."""
    with path.open("ab") as file:
        file.write(tokens_tS.numpy().astype("<i4").tobytes())


def _read_tokens(path: Path, frame_size: int) -> torch.Tensor:
    """Return the latent frames (t, S) of a file to which they were appended; one that was cut off is left out."""
    tokens = np.fromfile(path, "<i4") if path.is_file() else np.zeros(0, "<i4")
    whole = len(tokens) // frame_size * frame_size
    if path.is_file() and path.stat().st_size != 4 * whole:
        with path.open("r+b") as file:
            file.truncate(4 * whole)
    return torch.from_numpy(tokens[:whole].astype(np.int64)).view(-1, frame_size)
