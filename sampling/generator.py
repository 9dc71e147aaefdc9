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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import require
from ..core.progress import note, progress
from ..tokenizer.clip_fit import Fit
from .benchmark import BenchmarkReport, run_benchmark
from .pretrained import Pretrained, load_pretrained
from .request import Request, check_length, make_request
from .rollout import Rollout
from .source import Source, read_source
from .video import Video


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
        revision: str | None = None,
        cache_dir: str | None = None,
        local_files_only: bool = False,
    ) -> "VideoGenerator":
        """Load a bundled model by name, a checkpoint folder, or a hub id (needs the `hub` extra).

        Raises:
            CheckpointError: something is missing, damaged, of another shape, or not safetensors.
        """
        parts = load_pretrained(
            model, device=device, dtype=dtype, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only
        )
        return cls(parts)

    @property
    def fps(self) -> float:
        """Frames a second of the model's clips."""
        return self.parts.config.fps

    def generate(
        self,
        prompt: str | Sequence[str] | None,
        *,
        seconds: float | None = None,
        num_frames: int | None = None,
        num_videos_per_prompt: int = 1,
        **options: Any,
    ) -> Video | list[Video]:
        """Generate clips from a prompt, or from a list of prompts in one batch.

        Args:
            prompt: what the clip shows; a list of prompts is a batch; None leaves it to the model.
            seconds: how long (2 by default); filled up to whole latent frames.
            num_frames: how long in frames, instead of `seconds`; filled up likewise.
            num_videos_per_prompt: samples of each prompt.
            options: `seed`, `generator`, `negative_prompt`, `height`, `width`, `callback_on_step_end`,
                `logits_processor` and the fields of `SamplingConfig` (guidance_scale, temperature, top_k, top_p,
                min_p); see `make_request`.

        Returns:
            A `Video` for one prompt with one sample, else a list of them, the samples of a prompt side by side.

        Raises:
            ReelmError: an argument is refused; nothing was computed.
        """
        single = not isinstance(prompt, list | tuple) and num_videos_per_prompt == 1
        request = make_request(self.parts, prompt, num_videos_per_prompt=num_videos_per_prompt, **options)
        latent_frames = check_length(self.parts, seconds, num_frames)
        videos = self._run(request, None, latent_frames)
        return videos[0] if single else videos

    def continue_clip(
        self, clip: Any, *, seconds: float | None = None, num_frames: int | None = None, prompt: str | None = None,
        fit: Fit = "crop", **options: Any,
    ) -> Video:  # fmt: skip
        """Go on from a clip: the result starts with it and is `seconds` (2 by default) longer.

        Args:
            clip: a `Video`, a path to a video, gif or image, or frames as an array (see `as_frames`). A `Video` that
                this model made is continued from its own tokens; others are resampled to the model's frame rate and
                size, encoded, and continued.
            seconds, num_frames: how much is added, filled up to whole latent frames.
            prompt: what is to come; by default the clip's own prompt, if it has one.
            fit: how another shape of picture is fitted: "crop", "pad" or "stretch".
            options: as for `generate`; what is not given is as it was for a `Video` of this model (seed, negative
                prompt, sampling settings), so that it goes on as if it had never stopped.

        Raises:
            ReelmError: an argument is refused, or the clip cannot be read; nothing was computed.
        """
        latent_frames = check_length(self.parts, seconds, num_frames, added=True)
        request = make_request(self.parts, prompt, **options)
        require(len(request.keys) == 1, "prompt, num_videos_per_prompt", "must be a single one to continue", prompt)
        source = read_source(self.parts, clip, fit)
        if source.said:
            note(source.said)
        return self._run(_inherit(request, source, prompt, options), source, latent_frames)[0]

    def stream(
        self, prompt: str | None, *, seconds: float | None = None, num_frames: int | None = None, **options: Any
    ) -> Iterator[np.ndarray]:
        """Yield frames (n, H, W, 3) uint8 as their latent frames complete: one, then `temporal` at a time.

        Without `seconds` or `num_frames` it goes on for ever, at a flat cost; dropping the iterator stops the work.
        The frames are those of `generate` with the same arguments. Options as for `generate`.
        """
        request = make_request(self.parts, prompt, **options)
        require(len(request.keys) == 1, "prompt", "must be a single one to stream", prompt)
        latent_frames = None
        if seconds is not None or num_frames is not None:
            latent_frames = check_length(self.parts, seconds, num_frames)
        return self._stream(request, latent_frames)

    def _stream(self, request: Request, latent_frames: int | None) -> Iterator[np.ndarray]:
        rollout, cache, done = self._rollout(request), None, 0
        while latent_frames is None or done < latent_frames:
            frames, cache = self._decode(rollout.next_frame()[:, None], cache)
            done += 1
            yield frames[0]

    def benchmark(self, **options: Any) -> BenchmarkReport:
        """Measure sampling speed here and now: a dict whose print is a table. Options: see `run_benchmark`."""
        return run_benchmark(self.parts, **options)

    def _rollout(self, request: Request) -> Rollout:
        return Rollout(
            self.parts.lm, self.parts.text, request.prompts, request.keys, request.sampling,
            negative_prompts=request.negative_prompts, processors=request.processors, on_step=request.on_step,
        )  # fmt: skip

    @torch.no_grad()
    def _decode(self, tokens_Bthw: torch.Tensor, cache: Any) -> tuple[np.ndarray, Any]:
        frames, cache = self.parts.tokenizer.decode_chunk(tokens_Bthw, cache)
        return (frames.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy(), cache

    def _decode_after(self, tokens_Bthw: torch.Tensor, known: int) -> np.ndarray:
        """The frames (B, T, H, W, 3) of all latent frames but the first `known`, of which the decoder needs a few."""
        tokenizer = self.parts.tokenizer
        start = max(0, known - max(1, tokenizer.memory))
        cache, parts = None, []
        for chunk in tokens_Bthw[:, start:].split(1, 1):
            frames, cache = self._decode(chunk, cache)
            parts.append(frames)
        return np.concatenate(parts, 1)[:, tokenizer.compression.frames(known - start) :]

    def _run(self, request: Request, source: Source | None, latent_frames: int) -> list[Video]:
        """Sample, then decode, then wrap up; `source` is continued by one clip."""
        began = time.perf_counter()
        rollout = self._rollout(request)
        tokens = []
        if source is not None:
            given_Bthw = source.tokens_thw[None].to(rollout.cache.positions_B.device)
            rollout.feed(given_Bthw)
            tokens.append(given_Bthw)
        read = time.perf_counter()
        for _ in progress(range(latent_frames), "generating", unit="latent frame"):
            tokens.append(rollout.next_frame()[:, None])
        sampled = time.perf_counter()
        tokens_Bthw = torch.cat(tokens, 1)
        frames_BTHWC = self._decode_after(tokens_Bthw, 0 if source is None else len(source.tokens_thw))
        decoded = time.perf_counter()
        stats = {
            "tokens": rollout.drawn * len(request.keys),
            "passes": rollout.drawn,
            "read_seconds": read - began,
            "sample_seconds": sampled - read,
            "decode_seconds": decoded - sampled,
            "tokens_per_second": rollout.drawn * len(request.keys) / (sampled - read),
        }
        videos = []
        for index, key in enumerate(request.keys):
            frames = frames_BTHWC[index]
            if source is not None:  # the given frames themselves, not their reconstruction
                frames = np.concatenate([source.frames_THWC.numpy(), frames])
            settings = self.parts.settings(request.sampling, key.sample, request.negative_prompts[index])
            videos.append(Video(
                frames=frames, tokens=tokens_Bthw[index].cpu().numpy(), fps=self.fps, prompt=request.prompts[index],
                seed=key.seed, settings=settings, stats=dict(stats),
            ))  # fmt: skip
        return videos


def _inherit(request: Request, source: Source, prompt: str | None, options: dict[str, Any]) -> Request:
    """The request with what the user left open filled in from the clip that is continued."""
    changes: dict[str, Any] = {}
    if prompt is None:
        changes["prompts"] = [source.prompt]
    if options.get("negative_prompt") is None:
        changes["negative_prompts"] = [source.negative_prompt]
    if source.key is not None and options.get("generator") is None and options.get("seed") is None:
        changes["keys"] = [source.key]
    if source.sampling is not None:
        given = {name: options[name] for name in vars(source.sampling) if name in options}
        changes["sampling"] = dataclasses.replace(source.sampling, **given)
    return dataclasses.replace(request, **changes)
