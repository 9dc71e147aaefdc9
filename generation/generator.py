"""`VideoGenerator`: prompts to clips, clips to longer clips, and frames as they come.

    generator = VideoGenerator.from_pretrained("world")
    video = generator.generate("a red ball rolls to the right over grass", seconds=2, seed=7)
    longer = generator.continue_clip(video, seconds=10)
    for frames in generator.stream("a blue ring spins", seconds=60): ...

Tokens are drawn by an `Engine` and become pixels by the tokenizer, a latent frame at a time. A clip that is continued
is given to the engine as tokens: a `Video` of this model's as its own tokens, anything else encoded once.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, overload

import numpy as np
import torch

from ..core.checkpoint import find_checkpoint
from ..core.device import pick_device
from ..core.errors import require
from ..core.progress import note
from ..core.protocols import Precision
from ..media.fitting import Fit
from ..sampling.batch import draw_clips
from .admission import admit, admit_model
from .detail import keep_detail
from .drift import DriftReport, drift
from .options import (
    ClipLike,
    ContinueOptions,
    GenerateOptions,
    ImageLike,
    OutputType,
    Prompt,
    Prompts,
    StreamOptions,
    TokensCallback,
    WholeNumber,
)
from .pixels import decode_clips
from .pretrained import Pretrained, load_pretrained, read_config
from .request import Request, inherit, is_batch, make_request, named
from .schedule import latest
from .scoring import Score, score_clip
from .session import SessionState
from .source import Source, read_source
from .stream import ClipStream
from .video import Frames, Images, Video, check_output_type


class VideoGenerator:
    """A loaded model that generates, continues and streams clips. Make one with `from_pretrained`."""

    def __init__(self, parts: Pretrained) -> None:
        """Generate with these parts of a model."""
        self.parts = parts

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "world",
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        weights: Precision = "full",
        cache: Precision = "full",
        revision: str | None = None,
        cache_dir: str | None = None,
        local_files_only: bool = False,
    ) -> "VideoGenerator":
        """Load a bundled model by name, a checkpoint folder, or a hub id (needs the `hub` extra).

        Args:
            model: its name, folder or id.
            device: "auto", "cpu" or "cuda[:n]".
            dtype: "auto", "float32", "bfloat16" or "float16".
            weights: "int8" keeps the matrices of the language model in int8, and on a CPU, which must have VNNI,
                multiplies in it: faster for large models, and a little less exact.
            cache: "int8" keeps keys and values in int8: a fraction of the memory, slower on a CPU.
            revision, cache_dir, local_files_only: of a hub id.

        Raises:
            CheckpointError: something is missing, damaged, of another shape, or not safetensors.
            ReelmError: the model does not fit into the memory that there is (see `reelm info --plan`), or there are no
                int8 weights on this machine, device or in this dtype.
        """
        where: dict[str, Any] = {
            "revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only
        }  # fmt: skip
        place, config = pick_device(device), read_config(find_checkpoint(model, **where))
        numerics: dict[str, Any] = {"dtype": dtype, "weights": weights, "cache": cache}
        admit_model(config, place, **numerics)
        return cls(load_pretrained(model, device=place, **numerics, **where))

    @property
    def fps(self) -> float:
        """The frames a second of the model's clips."""
        return self.parts.config.fps

    @overload
    def generate(self, prompt: Prompt | None, *, num_videos_per_prompt: None = None, output_type: None = None,
                 **options: Unpack[GenerateOptions]) -> Video: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompt | None, *, num_videos_per_prompt: None = None, output_type: Literal["np"],
                 **options: Unpack[GenerateOptions]) -> np.ndarray: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompt | None, *, num_videos_per_prompt: None = None, output_type: Literal["pt"],
                 **options: Unpack[GenerateOptions]) -> torch.Tensor: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompt | None, *, num_videos_per_prompt: None = None, output_type: Literal["pil"],
                 **options: Unpack[GenerateOptions]) -> Images: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompts, *, num_videos_per_prompt: WholeNumber | None = None, output_type: None = None,
                 **options: Unpack[GenerateOptions]) -> list[Video]: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompts, *, num_videos_per_prompt: WholeNumber | None = None, output_type: Literal["np"],
                 **options: Unpack[GenerateOptions]) -> list[np.ndarray]: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompts, *, num_videos_per_prompt: WholeNumber | None = None, output_type: Literal["pt"],
                 **options: Unpack[GenerateOptions]) -> list[torch.Tensor]: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompts, *, num_videos_per_prompt: WholeNumber | None = None,
                 output_type: Literal["pil"], **options: Unpack[GenerateOptions]) -> list[Images]: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompt | None, *, num_videos_per_prompt: WholeNumber, output_type: None = None,
                 **options: Unpack[GenerateOptions]) -> list[Video]: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompt | None, *, num_videos_per_prompt: WholeNumber, output_type: Literal["np"],
                 **options: Unpack[GenerateOptions]) -> list[np.ndarray]: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompt | None, *, num_videos_per_prompt: WholeNumber, output_type: Literal["pt"],
                 **options: Unpack[GenerateOptions]) -> list[torch.Tensor]: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompt | None, *, num_videos_per_prompt: WholeNumber, output_type: Literal["pil"],
                 **options: Unpack[GenerateOptions]) -> list[Images]: ...  # fmt: skip

    def generate(
        self, prompt: Prompt | Prompts | None, *, num_videos_per_prompt: WholeNumber | None = None,
        output_type: OutputType | None = None, **options: Unpack[GenerateOptions],
    ) -> Video | Frames | Sequence[Video | Frames]:  # fmt: skip
        """Generate a clip from a prompt, or clips from a list of prompts in one batch.

        Args:
            prompt: what the clip shows; a list of prompts is a batch; None leaves it to the model. A prompt may change
                over time: [(0, "a red ball"), (4.0, "a blue ring")].
            num_videos_per_prompt: so many samples of each prompt, in a list; sample 0 of a seed is what that seed gives
                alone.
            output_type: "np", "pt" or "pil" returns the frames alone, in that form (see `Video.to`).
            options: see `GenerateOptions`.

        Returns:
            A `Video` for one prompt; a list of them for a list of prompts, or where `num_videos_per_prompt` is given,
            the samples of a prompt side by side.

        Raises:
            ReelmError: an argument is refused; nothing was computed.
        """
        if output_type is not None:
            check_output_type(output_type, "output_type")
        given = {**options, "num_videos_per_prompt": num_videos_per_prompt}
        request = make_request(self.parts, "generate", prompt, given)
        keep_state = options.get("keep_state")
        if keep_state is None:
            keep_state = len(request.plans) == 1 and output_type is None
        videos = self._run(request, None, keep_state, options.get("callback_on_tokens"))
        if num_videos_per_prompt is None and not is_batch(prompt):
            return videos[0] if output_type is None else videos[0].to(output_type)
        return videos if output_type is None else [video.to(output_type) for video in videos]

    @overload
    def continue_clip(self, clip: ClipLike | None = None, *, image: ImageLike | None = None, output_type: None = None,
                      **options: Unpack[ContinueOptions]) -> Video: ...  # fmt: skip
    @overload
    def continue_clip(self, clip: ClipLike | None = None, *, image: ImageLike | None = None, output_type: Literal["np"],
                      **options: Unpack[ContinueOptions]) -> np.ndarray: ...  # fmt: skip
    @overload
    def continue_clip(self, clip: ClipLike | None = None, *, image: ImageLike | None = None, output_type: Literal["pt"],
                      **options: Unpack[ContinueOptions]) -> torch.Tensor: ...  # fmt: skip
    @overload
    def continue_clip(self, clip: ClipLike | None = None, *, image: ImageLike | None = None,
                      output_type: Literal["pil"], **options: Unpack[ContinueOptions]) -> Images: ...  # fmt: skip

    def continue_clip(
        self, clip: ClipLike | None = None, *, image: ImageLike | None = None, output_type: OutputType | None = None,
        **options: Unpack[ContinueOptions],
    ) -> Video | Frames:  # fmt: skip
        """Go on from a clip: the result starts with it and is `seconds` (2 by default) longer.

        Args:
            clip: a `Video`, a `SessionState`, a path to a session, video, gif or image, or frames as an array (see
                `as_frames`). What this model made goes on from its own tokens; other clips are resampled to the model's
                frame rate and size, encoded, and continued.
            image: a picture to go on from, in place of `clip`.
            output_type: "np", "pt" or "pil" returns the frames alone, in that form (see `Video.to`).
            options: see `ContinueOptions`; what is not given is as it was for a clip of this model (seed, negative
                prompt, sampling settings), so that it goes on as if it had never stopped.

        Raises:
            ReelmError: an argument is refused, or the clip cannot be read; nothing was computed.
        """
        if output_type is not None:
            check_output_type(output_type, "output_type")
        names = [name for name, value in {"clip": clip, "image": image}.items() if value is not None]
        require(len(names) == 1, "clip, image", "must be exactly one of the two", names)
        given = image if clip is None else clip
        assert given is not None
        prompt = options.get("prompt")
        request = make_request(self.parts, "continue_clip", prompt, dict(options), added=True)
        require(len(request.plans) == 1, "prompt", "must be a single one to continue", prompt)
        with named(names[0]):
            source = read_source(self.parts, given, options.get("fit", "crop"), names[0])
        if source.fitting:
            note(source.fitting)
        if source.missing and "conditions" not in options:
            note(source.missing)
        request = inherit(request, source, prompt is not None, options)
        past = source.prompts, source.negative_prompt, source.conditions
        if not request.plans[0].shares_past(*past, len(source.tokens_thw)):
            source = dataclasses.replace(source, cache={})  # which was drawn under other ones
        detailed = source.detailed and options.get("detail", True)
        source = dataclasses.replace(source, detailed=detailed)
        (video,) = self._run(request, source, True, options.get("callback_on_tokens"))
        return video if output_type is None else video.to(output_type)

    def stream(self, prompt: Prompt | None, **options: Unpack[StreamOptions]) -> ClipStream:
        """Make a clip whose frames (n, H, W, 3) uint8 come as their latent frames complete: one, then `temporal`.

        Without `seconds` or `num_frames` it goes on for ever, at a flat cost; dropping or closing the stream stops the
        work. The frames are those of `generate` with the same arguments. Callbacks and processors may be called by a
        thread, a latent frame ahead.

        Args:
            prompt: as for `generate`, of one clip.
            options: see `StreamOptions`.

        Raises:
            ReelmError: an argument is refused; nothing was computed.
        """
        request = make_request(self.parts, "stream", prompt, options)
        require(len(request.plans) == 1, "prompt", "must be a single one to stream", prompt)
        admit(self.parts, request, whole=False)
        return ClipStream(self.parts, request)

    @overload
    def decode(self, session: SessionState | str | Path, *, output_type: None = None) -> Video: ...
    @overload
    def decode(self, session: SessionState | str | Path, *, output_type: Literal["np"]) -> np.ndarray: ...
    @overload
    def decode(self, session: SessionState | str | Path, *, output_type: Literal["pt"]) -> torch.Tensor: ...
    @overload
    def decode(self, session: SessionState | str | Path, *, output_type: Literal["pil"]) -> Images: ...

    def decode(self, session: SessionState | str | Path, *, output_type: OutputType | None = None) -> Video | Frames:
        """The clip of a session, or of the file of one, whose tokens were not made pixels.

        Args:
            session: the session or its file.
            output_type: "np", "pt" or "pil" returns the frames alone, in that form (see `Video.to`).

        Raises:
            ReelmError: it is no session, or one of another model.
        """
        if output_type is not None:
            check_output_type(output_type, "output_type")
        state = session if isinstance(session, SessionState) else SessionState.load(session)
        source = read_source(self.parts, state, argument="session")
        (frames,) = decode_clips(self.parts.tokenizer, [source.tokens_thw])
        video = self._video(frames, state, {})
        return video if output_type is None else video.to(output_type)

    def score(self, clip: ClipLike, prompt: Prompt | None = None, *, fit: Fit = "crop") -> Score:
        """What every token of a clip costs under a prompt, in nats; see `score_clip`."""
        return score_clip(self.parts, clip, prompt, fit=fit)

    def drift(self, clip: ClipLike, *, window_seconds: float | None = None) -> DriftReport:
        """Whether a long clip freezes, fades or blurs, window after window; see the function of this name."""
        return drift(self.parts, clip, window_seconds=window_seconds)

    def _run(
        self, request: Request, source: Source | None, keep_state: bool, on_tokens: TokensCallback | None
    ) -> list[Video]:
        """Sample, then decode, then wrap up; `source` is continued by one clip."""
        parts, layout = self.parts, self.parts.lm.layout
        kept = keep_state or on_tokens is not None
        admit(parts, request, keep_state=kept, continuing=source is not None)
        began = time.perf_counter()
        engine = request.engine(parts)
        given_tS = None if source is None else layout.pack(source.grids)
        if source is not None:
            engine.add(request.plans[0], given_tS, source.cache or None)
        read = time.perf_counter()
        drawn = draw_clips(engine, request.plans, keep_states=kept)
        sampled = time.perf_counter()
        detail = {"detail": True} if source is not None and source.detailed else {}
        states = []
        for plan, clip in zip(request.plans, drawn, strict=True):
            tokens_tS = clip.tokens_tS if given_tS is None else torch.cat([given_tS, clip.tokens_tS])
            grids = layout.unpack(tokens_tS)
            states.append(SessionState(
                grids.pop("video"), grids, clip.state, plan.conditions, latest(plan.prompts), plan.key.seed,
                parts.settings(request.sampling, plan) | detail,
            ))  # fmt: skip
        if on_tokens is not None:
            on_tokens(states)
        if source is None or source.frames_THW3 is None:
            clips = decode_clips(parts.tokenizer, [state.tokens_thw for state in states])
        else:
            clips = [self._lengthen(source, source.frames_THW3.numpy(), states[0].tokens_thw)]
        seconds = {"read": read - began, "sample": sampled - read, "decode": time.perf_counter() - sampled}
        report = engine.stats.report(request.decoder, seconds)
        if not keep_state:
            states = [dataclasses.replace(state, cache={}) for state in states]
        return [self._video(frames, state, report) for frames, state in zip(clips, states, strict=True)]

    def _lengthen(self, source: Source, given_THW3: np.ndarray, tokens_thw: torch.Tensor) -> np.ndarray:
        """The given frames themselves, not their reconstruction, and those of the tokens after the source's."""
        known = len(source.tokens_thw)
        (frames_THW3,) = decode_clips(self.parts.tokenizer, [tokens_thw], known - 1)
        again = len(frames_THW3) - (len(tokens_thw) - known) * self.parts.tokenizer.compression.t
        decoded_THW3, new_THW3 = np.split(frames_THW3, [again])
        if source.detailed:
            new_THW3 = keep_detail(given_THW3[-again:], decoded_THW3, new_THW3)
        return np.concatenate([given_THW3, new_THW3])

    def _video(self, frames: np.ndarray, state: SessionState, stats: dict[str, Any]) -> Video:
        return Video(
            frames=frames, tokens=state.tokens_thw.numpy(), fps=self.fps, prompt=state.prompt, seed=state.seed,
            segments={name: tokens.numpy() for name, tokens in state.segments.items()}, settings=state.settings,
            stats=dict(stats), state=state if state.cache else None,
        )  # fmt: skip
