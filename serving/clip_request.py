"""What is asked of a server for a clip, checked, as a request of the library and the clip that it continues.

asked = {"model": "world", "prompt": "a red ball", "options": {"seconds": 2}, "endless": False}
drawn = read_asked(parts, asked, None, Limits())        # everything is refused here, before it is accepted
drawn.asked["options"]["seed"]                          # a seed is chosen once, so that a job has one result
"""

import dataclasses
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import require
from ..core.json_values import Json
from ..generation.admission import admit
from ..generation.continuation import inherit
from ..generation.detail import decode_after
from ..generation.json_request import JSON_OPTIONS, check_json_options, read_json_prompt
from ..generation.pretrained import Pretrained
from ..generation.request import Request, make_request
from ..generation.session import SessionState
from ..generation.source import Source, read_source
from ..generation.video import Video
from ..media.fitting import FITS
from ..sampling.plan import ClipPlan
from .limits import Limits


@dataclass(frozen=True)
class AskedClip:
    """A clip that can be drawn.

    Attributes:
        asked: What was asked for, with the seed.
        request: The request, with one clip.
        source: The clip that it continues, or None.
    """

    asked: Json
    request: Request
    source: Source | None

    @property
    def plan(self) -> ClipPlan:
        """The plan of the clip."""
        return self.request.plans[0]

    def past(self, parts: Pretrained, drawn_tS: torch.Tensor) -> torch.Tensor:
        """Return the latent frames (t, S) of the source and those that were drawn before."""
        if self.source is None:
            return drawn_tS
        return torch.cat([parts.lm.layout.pack(self.source.grids), drawn_tS])

    def video(
        self, parts: Pretrained, plan: ClipPlan, tokens_tS: torch.Tensor, frames_THW3: np.ndarray | None = None
    ) -> Video:
        """Return the clip of all these latent frames, with those of its source, as the generator would.

        Its frames are decoded from them unless they are given.
        """
        detailed = self.source is not None and self.source.detailed
        settings = parts.settings(self.request.sampling, plan, detail=detailed)
        state = SessionState.from_plan(plan, parts.lm.layout.unpack(tokens_tS), {}, settings)
        if frames_THW3 is None:
            (frames_THW3,) = decode_after(parts.tokenizer, self.source, [state.tokens_thw])
        return Video.from_session(state, frames_THW3, parts.config.fps)


def read_asked(
    parts: Pretrained, asked: Json, source: Path | None, limits: Limits, *, drawn: bool = False
) -> AskedClip:
    """Check what is asked for.

    Args:
        parts: The model.
        asked: The prompt (or a schedule of prompts), the options, and whether the clip is endless.
        source: The clip or session to continue, if there is one.
        limits: The limits of the server.
        drawn: Whether it is drawn already, so that it takes no memory for that.

    Raises:
        ReelmError: An argument is refused, the source cannot be read, or the clip would not fit into memory.
    """
    options: dict[str, Any] = dict(asked.get("options") or {})  # type: ignore[arg-type]
    check_json_options(options, JSON_OPTIONS)
    endless, prompt, fit = bool(asked.get("endless")), asked.get("prompt"), options.pop("fit", "crop")
    continuing = source is not None
    require(fit in FITS, "fit", f"must be one of {FITS}", fit)
    clip = None if source is None else read_source(parts, read_clip_of(source, limits), fit)
    if clip is None or clip.key is None:
        options.setdefault("seed", secrets.randbits(32))
    call = "stream" if endless else "continue_clip" if continuing else "generate"
    for name in ("seconds", "num_frames"):
        require(not endless or options.get(name) is None, name, "must not be given for a clip without an end",
                options.get(name))  # fmt: skip
    request = make_request(parts, call, read_json_prompt(prompt), options, continuing=continuing)
    if clip is not None:
        request, clip = inherit(parts, request, clip, {**options, "prompt": prompt})
    frames = request.plans[0].latent_frames
    seconds = 0.0 if frames is None else parts.config.tokenizer.compression.frames(frames) / parts.config.fps
    require(seconds <= limits.seconds, "seconds", f"must be at most {limits.seconds:g} in all", seconds)
    if not drawn:
        admit(parts, request, whole=not endless, continuing=continuing)
    kept = {**options, **({"fit": fit} if continuing else {})}
    return AskedClip({**asked, "options": kept}, request, clip)


def read_clip_of(path: Path, limits: Limits) -> Video | SessionState:
    """Read a clip or a session that came from outside."""
    if path.suffix == ".safetensors":
        return SessionState.load(path, "clip")
    return Video.load(path, limits=limits.upload)


def cut(session: SessionState, latent_frames: int) -> SessionState:
    """Return the first latent frames of a session, from which its clip is continued otherwise."""
    segments = {name: tokens[:latent_frames] for name, tokens in session.segments.items()}
    settings = {**session.settings, "latent_frames": latent_frames}
    return dataclasses.replace(
        session, tokens_thw=session.tokens_thw[:latent_frames], segments=segments, cache={}, settings=settings
    )
