"""`VideoGenerator`: prompts to clips, clips to longer clips, and frames as they come.

    generator = VideoGenerator.from_pretrained("world")
    video = generator.generate("a red ball rolls to the right over grass", seconds=2, seed=7)
    longer = generator.continue_clip(video, seconds=10)
    for frames in generator.stream("a blue ring spins", seconds=60): ...

Tokens are made by `Rollout` and become pixels by the tokenizer's `decode_chunk`, a latent frame at a time. A clip that
is continued is fed to the rollout as tokens: a `Video` of this model's as its own tokens, anything else encoded once.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.ahead import ahead
from ..core.checkpoint import find_checkpoint
from ..core.device import modes_of, pick_device, two_at_once
from ..core.errors import require
from ..core.machine import mark
from ..core.progress import note
from ..lm.int8 import Kind
from ..tokenizer.clip_fit import Fit
from .admission import admit, admit_model
from .batch import sample_clips
from .benchmark import BenchmarkReport, run_benchmark
from .detail import keep_detail
from .drift import DriftReport, drift
from .pixels import decode_clips, decode_next
from .plan import ClipPlan
from .pretrained import Pretrained, load_pretrained, read_config
from .request import Request, check_lengths, inherit, make_request
from .rollout import Rollout
from .schedule import is_schedule, latest
from .score import Score, score_clip
from .source import Source, read_source
from .state import SessionState
from .video import Video

# The sessions of the clips, when their tokens are there and their pixels are not.
TokensCallback = Callable[[list[SessionState]], None]


class VideoGenerator:
    """A loaded model that generates, continues and streams clips. Make one with `from_pretrained`."""

    def __init__(self, parts: Pretrained) -> None:
        self.parts = parts

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "world",
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        weights: Kind = "full",
        cache: Kind = "full",
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
        kinds: dict[str, Any] = {"dtype": dtype, "weights": weights, "cache": cache}
        admit_model(config, place, **kinds)
        return cls(load_pretrained(model, device=place, **kinds, **where))

    @property
    def fps(self) -> float:
        """Frames a second of the model's clips."""
        return self.parts.config.fps

    def generate(
        self,
        prompt: Any,
        *,
        seconds: float | Sequence[float] | None = None,
        num_frames: int | Sequence[int] | None = None,
        keep_state: bool | None = None,
        callback_on_tokens: TokensCallback | None = None,
        **options: Any,
    ) -> Video | list[Video]:
        """Generate clips from a prompt, or from a list of prompts in one batch.

        Args:
            prompt: what the clip shows; a list of prompts is a batch; None leaves it to the model. A prompt may change
                over time: [(0, "a red ball"), (4.0, "a blue ring")].
            seconds: how long (2 by default), one or one for each prompt; filled up to whole latent frames.
            num_frames: how long in frames, instead of `seconds`; filled up likewise.
            keep_state: whether the clips have a `state`, so that they are continued at once and not read again; by
                default where one clip is made, as it takes some megabytes a clip.
            callback_on_tokens: called with the sessions (`SessionState`) of the clips when all tokens are there, before
                they become pixels: who saves them loses nothing to what happens afterwards.
            options: `num_videos_per_prompt`, `seed`, `generator`, `negative_prompt`, `height`, `width`, `decoder`,
                `block_size`, `batch_size`, `callback_on_step_end`, `logits_processor` and the fields of
                `SamplingConfig` (guidance_scale, temperature, top_k, top_p, min_p); see `make_request`.

        Returns:
            A `Video` for one prompt with one sample, else a list of them, the samples of a prompt side by side.

        Raises:
            ReelmError: an argument is refused; nothing was computed.
        """
        request = make_request(self.parts, prompt, lengths=check_lengths(self.parts, seconds, num_frames), **options)
        one = len(request.plans) == 1
        videos = self._run(request, None, one if keep_state is None else keep_state, callback_on_tokens)
        listed = isinstance(prompt, list | tuple) and not is_schedule(prompt)
        return videos[0] if one and not listed else videos

    def continue_clip(
        self, clip: Any, *, seconds: float | None = None, num_frames: int | None = None, prompt: Any = None,
        fit: Fit = "crop", detail: bool = True, callback_on_tokens: TokensCallback | None = None, **options: Any,
    ) -> Video:  # fmt: skip
        """Go on from a clip: the result starts with it and is `seconds` (2 by default) longer.

        Args:
            clip: a `Video`, a `SessionState`, a path to a session, video, gif or image, or frames as an array (see
                `as_frames`). What this model made goes on from its own tokens; other clips are resampled to the model's
                frame rate and size, encoded, and continued.
            seconds, num_frames: how much is added, filled up to whole latent frames.
            prompt: what is to come, may be a schedule whose second 0 is where the clip ends; by default the clip's own
                prompt, if it has one.
            fit: how another shape of picture is fitted: "crop", "pad" or "stretch".
            detail: keep what the tokenizer loses of the clip's end where the picture stays as it was, so that no seam
                is seen; see `keep_detail`. Tokens are the same either way.
            callback_on_tokens: as for `generate`.
            options: as for `generate`; what is not given is as it was for a clip of this model (seed, negative prompt,
                sampling settings), so that it goes on as if it had never stopped.

        Raises:
            ReelmError: an argument is refused, or the clip cannot be read; nothing was computed.
        """
        lengths = check_lengths(self.parts, seconds, num_frames, added=True)
        request = make_request(self.parts, prompt, lengths=lengths, added=True, **options)
        require(len(request.plans) == 1, "prompt, num_videos_per_prompt", "must be a single one to continue", prompt)
        source = read_source(self.parts, clip, fit)
        if source.said:
            note(source.said)
        request = inherit(request, source, prompt is not None, options)
        if not request.plans[0].shares_past(source.prompts, source.negative_prompt, len(source.tokens_thw)):
            source = dataclasses.replace(source, ring={})  # which was drawn under other ones
        source = dataclasses.replace(source, detailed=source.detailed and detail)
        return self._run(request, source, True, callback_on_tokens)[0]

    def stream(
        self, prompt: Any, *, seconds: float | None = None, num_frames: int | None = None, **options: Any
    ) -> Iterator[np.ndarray]:
        """Yield frames (n, H, W, 3) uint8 as their latent frames complete: one, then `temporal` at a time.

        Without `seconds` or `num_frames` it goes on for ever, at a flat cost; dropping the iterator stops the work.
        The frames are those of `generate` with the same arguments. Options as for `generate`. The next latent frame is
        sampled while this one becomes pixels, by a thread, on a GPU and where there are cores to spare; callbacks and
        processors are then called by it, a latent frame ahead.
        """
        lengths = None if seconds is num_frames is None else check_lengths(self.parts, seconds, num_frames)
        request = make_request(self.parts, prompt, lengths=lengths, **options)
        require(len(request.plans) == 1, "prompt", "must be a single one to stream", prompt)
        admit(self.parts, request, whole=False)
        return self._stream(request)

    def _stream(self, request: Request) -> Iterator[np.ndarray]:
        rollout, ends, device = self._rollout(request, request.plans), request.plans[0].latent_frames, self._device
        modes = modes_of(device)

        def sample() -> Iterator[tuple[torch.Tensor, Any]]:
            while ends is None or rollout.taken[0] < ends:
                with modes():
                    made = rollout.next_frame()[:, None], mark(device)
                yield made

        # On a GPU pixels are made on a stream of their own, which waits for the tokens and for nothing after them.
        aside, cache = torch.cuda.Stream(device) if device.type == "cuda" else None, None
        for tokens_Bthw, made in ahead(sample()) if two_at_once(device) else sample():
            if aside is not None:
                aside.wait_event(made)
                tokens_Bthw.record_stream(aside)
            with torch.cuda.stream(aside):
                frames, cache = decode_next(self.parts.tokenizer, tokens_Bthw, cache)
            yield frames[0]

    def decode(self, session: SessionState | str | Path) -> Video:
        """The clip of a session, or of the file of one, whose tokens were not made pixels.

        Raises:
            ReelmError: it is no session, or one of another model.
        """
        state = session if isinstance(session, SessionState) else SessionState.load(session)
        source = read_source(self.parts, state)
        (frames,) = decode_clips(self.parts.tokenizer, [source.tokens_thw])
        return self._video(frames, state, {})

    def score(self, clip: Any, prompt: Any = None, *, fit: Fit = "crop") -> Score:
        """What every token of a clip costs under a prompt, in nats; see `score_clip`."""
        return score_clip(self.parts, clip, prompt, fit=fit)

    def drift(self, clip: Any, *, window_seconds: float | None = None) -> DriftReport:
        """Whether a long clip freezes, fades or blurs, window after window; see the function of this name."""
        return drift(self.parts, clip, window_seconds=window_seconds)

    def benchmark(self, **options: Any) -> BenchmarkReport:
        """Measure sampling speed here and now: a dict whose print is a table. Options: see `run_benchmark`."""
        return run_benchmark(self.parts, **options)

    @property
    def _device(self) -> torch.device:
        return next(self.parts.lm.parameters()).device

    def _rollout(self, request: Request, plans: Sequence[ClipPlan]) -> Rollout:
        return Rollout(
            self.parts.lm, self.parts.text, plans, request.sampling,
            decoder=request.decoder, processors=request.processors, on_step=request.on_step,
        )  # fmt: skip

    def _run(
        self, request: Request, source: Source | None, keep_state: bool, on_tokens: TokensCallback | None
    ) -> list[Video]:
        """Sample, then decode, then wrap up; `source` is continued by one clip."""
        kept = keep_state or on_tokens is not None
        admit(self.parts, request, keep_state=kept, continuing=source is not None)
        began = read = time.perf_counter()

        def begin(plans: Sequence[ClipPlan]) -> Rollout:
            nonlocal read
            rollout = self._rollout(request, plans)
            if source is not None:
                rollout.resume(source.tokens_thw, source.ring)
            read = time.perf_counter()
            return rollout

        new, rings, rollout = sample_clips(begin, request.plans, request.batch_size, keep_rings=kept)
        sampled = time.perf_counter()
        given = [source.tokens_thw] if source else []
        detail = {"detail": True} if source is not None and source.detailed else {}
        states = [
            SessionState(
                torch.cat([*given, tokens_thw.cpu()]), ring, latest(plan.prompts), plan.key.seed,
                self.parts.settings(request.sampling, plan) | detail,
            )
            for plan, tokens_thw, ring in zip(request.plans, new, rings, strict=True)
        ]  # fmt: skip
        if on_tokens is not None:
            on_tokens(states)
        if source is None or source.frames_THWC is None:
            clips = decode_clips(self.parts.tokenizer, [state.tokens_thw for state in states])
        else:
            clips = [self._lengthen(source, source.frames_THWC.numpy(), states[0].tokens_thw)]
        seconds = {"read": read - began, "sample": sampled - read, "decode": time.perf_counter() - sampled}
        told = rollout.stats.told(request.decoder, seconds)
        if not keep_state:
            states = [dataclasses.replace(state, ring={}) for state in states]
        return [self._video(frames, state, told) for frames, state in zip(clips, states, strict=True)]

    def _lengthen(self, source: Source, given_THWC: np.ndarray, tokens_thw: torch.Tensor) -> np.ndarray:
        """The given frames themselves, not their reconstruction, and those of the tokens after the source's."""
        known = len(source.tokens_thw)
        (frames_THWC,) = decode_clips(self.parts.tokenizer, [tokens_thw], known - 1)
        again = len(frames_THWC) - (len(tokens_thw) - known) * self.parts.tokenizer.compression.t
        decoded_THWC, new_THWC = np.split(frames_THWC, [again])
        if source.detailed:
            new_THWC = keep_detail(given_THWC[-again:], decoded_THWC, new_THWC)
        return np.concatenate([given_THWC, new_THWC])

    def _video(self, frames: np.ndarray, state: SessionState, stats: dict[str, Any]) -> Video:
        return Video(
            frames=frames, tokens=state.tokens_thw.numpy(), fps=self.fps, prompt=state.prompt, seed=state.seed,
            settings=state.settings, stats=dict(stats), state=state if state.ring else None,
        )  # fmt: skip
