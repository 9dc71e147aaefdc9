"""`VideoGenerator`: generates clips from prompts, continues clips, and streams frames.

    generator = VideoGenerator.from_pretrained("world")
    video = generator.generate("a red ball rolls to the right over grass", seconds=2, seed=7)
    longer = generator.continue_clip(video, seconds=10)
    for frames in generator.stream("a blue ring spins", seconds=60): ...

An `Engine` draws the tokens, and the tokenizer decodes them to pixels, a latent frame at a time. A clip that is
continued goes to the engine as tokens: a `Video` of this model as its own tokens, any other clip encoded once.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Unpack, overload

import numpy as np
import torch

from ..core.errors import ReelmError
from ..core.modes import in_plain_modes
from ..core.protocols import Precision
from ..core.signals import deferred_signals
from ..media.fitting import Fit
from ..media.sound import note_sound
from ..sampling.batch import DrawnClip, draw_clips
from .admission import admit, load_admitted
from .continuation import inherit
from .detail import decode_after
from .drift import DriftReport, drift
from .model_copy import copy_pretrained
from .options import (
    ClipLike,
    ContinueOptions,
    GenerateOptions,
    ManyVideos,
    OneVideo,
    OutputType,
    Prompt,
    Prompts,
    Samples,
    StreamOptions,
    Takes,
    WholeNumber,
)
from .pixels import decode_clips
from .play import PlaySession, begin_play
from .play_options import PlayOptions
from .pretrained import HubOptions, NumericsOptions, Pretrained
from .request import Request, is_batch, make_request, unmoved_if_refused
from .scoring import Score, score_clip
from .session import SessionState
from .source import Source, read_source
from .stream import ClipStream
from .video import Frames, Images, Video, check_output_type


class VideoGenerator:
    """A loaded model that generates, continues and streams clips; `from_pretrained` makes one."""

    def __init__(self, parts: Pretrained) -> None:
        """Make a generator with these parts of a model."""
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
        processes: int = 1,
        revision: str | None = None,
        cache_dir: str | None = None,
        local_files_only: bool = False,
    ) -> "VideoGenerator":
        """Load a bundled model by name, a checkpoint folder, or a hub id (needs the `hub` extra).

        Args:
            model: The name, folder or hub id.
            device: The device: "auto", "cpu" or "cuda[:n]".
            dtype: The dtype of the language model: "auto", "float32", "bfloat16" or "float16".
            weights: The precision of the language model's matrices; "int8" keeps them in int8, and on a CPU, which must
                have VNNI, multiplies in it: faster for large models, and a little less exact.
            cache: The precision of keys and values; "int8" takes a fraction of the memory, and is slower on a CPU.
            processes: The number of processes, started by torchrun, that hold the language model together. Each must
                make the same calls with the same arguments, seeds too, and gets the same clips.
            revision: The revision of a hub id.
            cache_dir: The folder for downloads of a hub id.
            local_files_only: Whether a hub id must have been downloaded before.

        Raises:
            CheckpointError: A file is missing, damaged, of another shape, or not safetensors.
            ReelmError: The model does not fit into the available memory (see `reelm info --plan`), or int8 weights are
                not supported on this machine or device or in this dtype.
        """
        hub: HubOptions = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only}
        numerics: NumericsOptions = {"dtype": dtype, "weights": weights, "cache": cache}
        return cls(load_admitted(model, device, numerics, hub, processes=processes))

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model, with a card, to a new folder for `from_pretrained` or the hub; see `copy_pretrained`."""
        return copy_pretrained(self.parts, folder)

    @property
    def fps(self) -> float:
        """The frames per second of the model's clips."""
        return self.parts.config.fps

    @overload
    def generate(self, prompt: Prompt | None, *, output_type: None = None, **options: Unpack[OneVideo]) -> Video: ...
    @overload
    def generate(self, prompt: Prompt | None, *, output_type: Literal["np"],
                 **options: Unpack[OneVideo]) -> np.ndarray: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompt | None, *, output_type: Literal["pt"],
                 **options: Unpack[OneVideo]) -> torch.Tensor: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompt | None, *, output_type: Literal["pil"],
                 **options: Unpack[OneVideo]) -> Images: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompts, *, output_type: None = None, **options: Unpack[ManyVideos]) -> list[Video]: ...
    @overload
    def generate(self, prompt: Prompts, *, output_type: Literal["np"],
                 **options: Unpack[ManyVideos]) -> list[np.ndarray]: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompts, *, output_type: Literal["pt"],
                 **options: Unpack[ManyVideos]) -> list[torch.Tensor]: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompts, *, output_type: Literal["pil"],
                 **options: Unpack[ManyVideos]) -> list[Images]: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompt | None, *, output_type: None = None,
                 **options: Unpack[Samples]) -> list[Video]: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompt | None, *, output_type: Literal["np"],
                 **options: Unpack[Samples]) -> list[np.ndarray]: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompt | None, *, output_type: Literal["pt"],
                 **options: Unpack[Samples]) -> list[torch.Tensor]: ...  # fmt: skip
    @overload
    def generate(self, prompt: Prompt | None, *, output_type: Literal["pil"],
                 **options: Unpack[Samples]) -> list[Images]: ...  # fmt: skip

    @in_plain_modes
    def generate(
        self, prompt: Prompt | Prompts | None, *, num_videos_per_prompt: WholeNumber | None = None,
        output_type: OutputType | None = None, **options: Unpack[GenerateOptions],
    ) -> Video | Frames | Sequence[Video | Frames]:  # fmt: skip
        """Generate a clip from a prompt, or clips from a list of prompts in one batch.

        Args:
            prompt: The prompt of the clip; a list of prompts is a batch; None leaves the clip to the model. A prompt
                may change over time: [(0, "a red ball"), (4.0, "a blue ring")].
            num_videos_per_prompt: The number of samples of each prompt, returned in a list; sample 0 of a seed is the
                clip that the seed gives alone.
            output_type: The form of frames to return in place of a `Video`: "np", "pt" or "pil" (see `Video.to`).
            options: The options of `GenerateOptions`.

        Returns:
            A `Video` for one prompt; a list of them for a list of prompts, or where `num_videos_per_prompt` is given,
            with the samples of a prompt next to each other.

        Raises:
            ReelmError: An argument is refused; nothing was computed.
        """
        given = {**options, "num_videos_per_prompt": num_videos_per_prompt, "output_type": output_type}
        with unmoved_if_refused(options):
            videos = self._run(make_request(self.parts, "generate", prompt, given))
        results = videos if output_type is None else [video.to(output_type) for video in videos]
        return results[0] if num_videos_per_prompt is None and not is_batch(prompt) else results

    @overload
    def continue_clip(self, clip: ClipLike | None = None, *, output_type: None = None,
                      **options: Unpack[ContinueOptions]) -> Video: ...  # fmt: skip
    @overload
    def continue_clip(self, clip: ClipLike | None = None, *, output_type: Literal["np"],
                      **options: Unpack[ContinueOptions]) -> np.ndarray: ...  # fmt: skip
    @overload
    def continue_clip(self, clip: ClipLike | None = None, *, output_type: Literal["pt"],
                      **options: Unpack[ContinueOptions]) -> torch.Tensor: ...  # fmt: skip
    @overload
    def continue_clip(self, clip: ClipLike | None = None, *, output_type: Literal["pil"],
                      **options: Unpack[ContinueOptions]) -> Images: ...  # fmt: skip
    @overload
    def continue_clip(self, clip: ClipLike | None = None, *, output_type: None = None,
                      **options: Unpack[Takes]) -> list[Video]: ...  # fmt: skip
    @overload
    def continue_clip(self, clip: ClipLike | None = None, *, output_type: OutputType,
                      **options: Unpack[Takes]) -> Sequence[Frames]: ...  # fmt: skip

    @in_plain_modes
    def continue_clip(
        self, clip: ClipLike | None = None, *, num_videos_per_prompt: WholeNumber | None = None,
        output_type: OutputType | None = None, **options: Unpack[ContinueOptions],
    ) -> Video | Frames | Sequence[Video | Frames]:  # fmt: skip
        """Continue a clip: the result begins with the clip and is `seconds` longer.

        Args:
            clip: A `Video`, a `SessionState`, a path to a session, video, image or folder of pictures, or frames as an
                array (see `as_frames`). A clip of this model is continued from its own tokens; any other clip is
                resampled to the model's frame rate and size and encoded.
            num_videos_per_prompt: The number of continuations, returned in a list. The first is the one that the same
                call makes alone; each has a sample of the noise of its own.
            output_type: The form of frames to return in place of a `Video`: "np", "pt" or "pil" (see `Video.to`).
            options: The options of `ContinueOptions`, with `image` in place of `clip`. For a clip of this model their
                defaults are the clip's own values (seed, negative prompt, sampling settings), so that it continues as
                if it had never stopped.

        Raises:
            ReelmError: An argument is refused, or the clip cannot be read; nothing was computed.
        """
        image = options.get("image")
        given, argument = (clip, "clip") if image is None else (image, "image")
        if given is None or not (clip is None or image is None):
            raise ReelmError(f"clip, image: must be exactly one of the two, got {'none' if given is None else 'both'}")
        arguments = {**options, "num_videos_per_prompt": num_videos_per_prompt, "output_type": output_type}
        with unmoved_if_refused(options):
            request = make_request(self.parts, "continue_clip", options.get("prompt"), arguments, continuing=True)
            source = read_source(self.parts, given, options.get("fit", "crop"), argument)
            note_sound(given, argument)
            videos = self._run(*inherit(self.parts, request, source, options))
        results = videos if output_type is None else [video.to(output_type) for video in videos]
        return results[0] if num_videos_per_prompt is None else results

    @in_plain_modes
    def stream(self, prompt: Prompt | None, **options: Unpack[StreamOptions]) -> ClipStream:
        """Make a clip whose frames (n, H, W, 3) uint8 come as their latent frames complete.

        Without `seconds` or `num_frames` the clip has no end, and its cost does not grow; dropping or closing the
        stream stops the work. The frames are those of `generate` with the same arguments. A thread may call callbacks
        and processors a latent frame ahead.

        Args:
            prompt: The prompt of the clip, as in `generate`.
            options: The options of `StreamOptions`.

        Raises:
            ReelmError: An argument is refused; nothing was computed.
        """
        with unmoved_if_refused(options):
            request = make_request(self.parts, "stream", prompt, options)
            admit(self.parts, request, whole=False)
        return ClipStream(self.parts, request)

    @in_plain_modes
    def play(self, prompt: Prompt | None = None, **options: Unpack[PlayOptions]) -> PlaySession:
        """Begin a clip that goes on under the keys of a player, step by step; see `begin_play`."""
        return begin_play(self.parts, prompt, **options)

    @overload
    def decode(self, session: SessionState | str | Path, *, output_type: None = None) -> Video: ...
    @overload
    def decode(self, session: SessionState | str | Path, *, output_type: Literal["np"]) -> np.ndarray: ...
    @overload
    def decode(self, session: SessionState | str | Path, *, output_type: Literal["pt"]) -> torch.Tensor: ...
    @overload
    def decode(self, session: SessionState | str | Path, *, output_type: Literal["pil"]) -> Images: ...

    @in_plain_modes
    def decode(self, session: SessionState | str | Path, *, output_type: OutputType | None = None) -> Video | Frames:
        """Decode the tokens of a session, or of the file of one, to a clip.

        Args:
            session: The session or its file.
            output_type: The form of frames to return in place of a `Video`: "np", "pt" or "pil" (see `Video.to`).

        Raises:
            ReelmError: It is no session, or one of another model.
        """
        if output_type is not None:
            check_output_type(output_type, "output_type")
        state = session if isinstance(session, SessionState) else SessionState.load(session)
        source = read_source(self.parts, state, argument="session")
        (frames,) = decode_clips(self.parts.tokenizer, [source.tokens_thw])
        video = Video.from_session(state, frames, self.fps)
        return video if output_type is None else video.to(output_type)

    def score(self, clip: ClipLike, prompt: Prompt | None = None, *, fit: Fit = "crop") -> Score:
        """Return the negative log-likelihood, in nats, of every token of a clip under a prompt; see `score_clip`."""
        return score_clip(self.parts, clip, prompt, fit=fit)

    def drift(self, clip: ClipLike, *, window_seconds: float | None = None) -> DriftReport:
        """Measure window by window whether a long clip freezes, fades or blurs; see the function of this name."""
        return drift(self.parts, clip, window_seconds=window_seconds)

    def _run(self, request: Request, source: Source | None = None) -> list[Video]:
        """Draw the tokens and decode them; the clips of a request with a `source` all continue the source."""
        parts, layout, kept = self.parts, self.parts.lm.layout, request.keep_state or request.on_tokens is not None
        admit(parts, request, keep_state=kept, continuing=source is not None)
        began, engine = time.perf_counter(), request.engine(parts)
        given_tS = None if source is None else layout.pack(source.grids)
        if source is not None:
            for plan in request.plans:  # the tokens of the source are read once, by the first clip
                engine.add(plan, given_tS, source.cache or (engine.export(0) if engine.clips else None))
        read = time.perf_counter()

        def hand_over(drawn: list[DrawnClip]) -> list[SessionState]:
            states = []
            with deferred_signals():  # what is drawn is to reach the caller
                for plan, clip in zip(request.plans, drawn, strict=True):
                    tokens_tS = clip.tokens_tS if given_tS is None else torch.cat([given_tS, clip.tokens_tS])
                    settings = parts.settings(request.sampling, plan, detail=source is not None and source.detailed)
                    states.append(SessionState.from_plan(plan, layout.unpack(tokens_tS), clip.state, settings))
                if request.on_tokens is not None:
                    request.on_tokens(states)
            return states

        drawn = draw_clips(engine, request.plans, keep_states=kept, on_exception=hand_over)
        sampled, states = time.perf_counter(), hand_over(drawn)
        clips = decode_after(parts.tokenizer, source, [state.tokens_thw for state in states])
        stats = engine.stats.report(request.decoder, read - began, sampled - read, time.perf_counter() - sampled)
        states = [state if request.keep_state else dataclasses.replace(state, cache={}) for state in states]
        known = 0 if source is None else len(source.tokens_thw)
        videos = []
        for shown, state in zip(clips, states, strict=True):
            new = len(shown) if source is None else (len(state.tokens_thw) - known) * parts.tokenizer.compression.t
            videos.append(Video.from_session(state, shown, self.fps, {**stats, "new_frames": new}))
        return [dataclasses.replace(video, inputs=() if source is None else source.inputs) for video in videos]
