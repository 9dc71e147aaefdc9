"""A request: the user's arguments, checked before any compute and spread over the clips of a batch.

request = make_request(parts, ["a red ball", "a blue ring"], seed=[1, 2], top_k=50)
lengths = check_lengths(parts, seconds=2.0, num_frames=None)
"""

import dataclasses
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from ..core.errors import ReelmError, require
from ..core.progress import note
from ..lm.text import words_of
from .decoders import make_decoder
from .noise import NoiseKey
from .passes import Decoder
from .plan import ClipPlan
from .pretrained import Pretrained
from .rollout import StepCallback
from .rules import LogitsProcessor, SamplingConfig
from .schedule import Schedule, read_prompts, read_schedule, to_latent_frames
from .source import Source

T = TypeVar("T")

MAX_CLIPS = 4096
DEFAULT_SECONDS = 2.0
MAX_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Request:
    """The clips of the batch, and what all of them share."""

    plans: list[ClipPlan]
    sampling: SamplingConfig
    decoder: Decoder
    processors: tuple[LogitsProcessor, ...]
    on_step: StepCallback | None
    batch_size: int | None


def make_request(  # noqa: PLR0913 (what three methods have in common)
    parts: Pretrained,
    prompt: Any,
    *,
    lengths: Sequence[int] | None = None,
    num_videos_per_prompt: int = 1,
    negative_prompt: str | Sequence[str] | None = None,
    seed: int | Sequence[int] | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    height: int | None = None,
    width: int | None = None,
    decoder: str | Decoder = "auto",
    block_size: int | None = None,
    batch_size: int | None = None,
    callback_on_step_end: StepCallback | None = None,
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None = None,
    added: bool = False,
    **sampling: Any,
) -> Request:
    """Check the arguments that `generate`, `continue_clip` and `stream` share; the model's defaults fill in the rest.

    Args:
        parts: the model.
        prompt: one prompt or several; None leaves the clip to the model. A prompt may be a schedule [(0, "a red ball"),
            (4.0, "a blue ring")]: it changes with the first latent frame from that second on.
        lengths: latent frames in all, one or one for each prompt; None for no end.
        num_videos_per_prompt: samples of each prompt; sample 0 of a seed is what that seed gives alone.
        negative_prompt: what guidance leads away from; one, or one for each prompt.
        seed: a whole number from 0 to 2^63 - 1; one for all prompts, or one for each. Without it, a random one.
        generator: instead of `seed`: a torch.Generator (or one for each prompt) from which a seed is drawn.
        height, width: in pixels; a model has one size, so another one is refused.
        decoder: "sequential", a token a pass; "jacobi", the same tokens in fewer passes; "auto", the faster of them;
            "diagonal", other tokens, by diagonals or lattices (diagonal.py); or a decoder of one's own (passes.py).
        block_size: positions that `jacobi` looks at in a pass, up to two latent frames.
        batch_size: clips that are drawn at a time; all by default. A clip that ends leaves its place to the next.
        callback_on_step_end: called after a pass with (passes so far, tokens (n,) of each clip in the model's order).
        logits_processor: (input_ids (B, S) in that order, scores (B, V)) -> scores; one or several, before temperature.
        added: whether what is drawn is added to a clip; second 0 of a schedule is where that ends.
        sampling: fields of `SamplingConfig`; `temperature` may be a schedule [(0, 1.0), (4.0, 0.7)] too.

    Raises:
        ReelmError: an argument breaks its rule.
    """
    prompts = [((0.0, ""),)] if prompt is None else _check_prompts(parts, prompt)
    count = _whole(num_videos_per_prompt, "num_videos_per_prompt", 1)
    require(len(prompts) * count <= MAX_CLIPS, "prompt", f"must make at most {MAX_CLIPS} clips", len(prompts) * count)
    for name, value, own in (("height", height, parts.config.height), ("width", width, parts.config.width)):
        require(value in (None, own), name, f"must be {own}, the size that this model was made for", value)
    temperatures = _pop_temperatures(sampling)
    config = _sampling(parts.config.sampling, sampling)
    negative = _strings("" if negative_prompt is None else negative_prompt, "negative_prompt")
    negative = _one_each(negative, len(prompts), "negative_prompt")
    guided = negative_prompt is None or config.guidance_scale != 1
    require(guided, "negative_prompt", "needs guidance_scale other than 1", negative_prompt)
    _check_text(parts, negative, "negative_prompt")
    seeds = _seeds(seed, generator, len(prompts))
    batch_size = None if batch_size is None else _whole(batch_size, "batch_size", 1)
    processors = tuple(logits_processor) if isinstance(logits_processor, list | tuple) else (logits_processor,)
    processors = tuple(processor for processor in processors if processor is not None)
    require(all(map(callable, processors)), "logits_processor", "must be callable", logits_processor)
    require(callback_on_step_end is None or callable(callback_on_step_end), "callback_on_step_end", "must be callable",
            callback_on_step_end)  # fmt: skip
    rate: dict[str, Any] = {"fps": parts.config.fps, "temporal": parts.tokenizer.compression.t, "added": added}
    ends = _one_each([None] if lengths is None else [*lengths], len(prompts), "seconds, num_frames")
    plans = [
        ClipPlan(
            prompts=to_latent_frames(schedule, **rate), negative_prompt=against, key=NoiseKey(number, sample),
            latent_frames=end, temperatures=to_latent_frames(temperatures, **rate) if temperatures else (),
        )
        for schedule, against, number, end in zip(prompts, negative, seeds, ends, strict=True)
        for sample in range(count)
    ]  # fmt: skip
    return Request(
        plans=plans,
        sampling=config,
        decoder=pick_decoder(parts, decoder, block_size, config, len(plans[:batch_size]), one_by_one=bool(processors)),
        processors=processors,
        on_step=callback_on_step_end,
        batch_size=batch_size,
    )


def pick_decoder(
    parts: Pretrained,
    decoder: str | Decoder,
    block_size: int | None,
    sampling: SamplingConfig,
    clips: int,
    *,
    one_by_one: bool = False,
) -> Decoder:
    """The decoder for so many clips of this model at a time; see `make_decoder`."""
    rows = clips * (1 if sampling.guidance_scale == 1 else 2)
    on_gpu, size = next(parts.lm.parameters()).is_cuda, parts.config.lm.frame_size
    return make_decoder(decoder, block_size, frame_size=size, rows=rows, on_gpu=on_gpu, one_by_one=one_by_one)


def inherit(request: Request, source: Source, prompted: bool, options: dict[str, Any]) -> Request:
    """The request to continue `source`, with what the user left open filled in from it.

    Args:
        request: made with `added`; its latent frames are counted from the end of the source on.
        source: the clip that is continued.
        prompted: whether the user gave a prompt; it holds from the end of the source on, if that has one of its own.
        options: what the user gave besides.
    """
    plan, after = request.plans[0], len(source.tokens_thw)
    ends = None if plan.latent_frames is None else after + plan.latent_frames
    coming = tuple((after + start, text) for start, text in plan.prompts)
    before = tuple(entry for entry in source.prompts if entry[0] < after and entry[1])
    if not before:  # what is given holds for the source too
        before, coming = ((0, plan.prompts[0][1]),), coming[1:]
    prompts = before + coming if prompted else source.prompts
    changes: dict[str, Any] = {"prompts": prompts, "latent_frames": ends}
    if "temperature" in options:
        changes["temperatures"] = tuple((after + start, value) for start, value in plan.temperatures)
    else:
        changes["temperatures"] = source.temperatures
    if options.get("negative_prompt") is None:
        changes["negative_prompt"] = source.negative_prompt
    if source.key is not None and options.get("generator") is None and options.get("seed") is None:
        changes["key"] = source.key
    sampling = request.sampling
    if source.sampling is not None:
        given = {name: getattr(sampling, name) for name in vars(sampling) if name in options}
        sampling = dataclasses.replace(source.sampling, **given)
    return dataclasses.replace(request, plans=[dataclasses.replace(plan, **changes)], sampling=sampling)


def check_lengths(parts: Pretrained, seconds: Any, num_frames: Any, *, added: bool = False) -> list[int]:
    """Latent frames that hold so many seconds or frames, for one length or a list of them.

    Args:
        parts: the model.
        seconds, num_frames: one or a list; both None for the default.
        added: whether they are added to a clip, so that no frame 0 is among them.

    Raises:
        ReelmError: both are given, or one is out of its range.
    """
    neither = seconds is None or num_frames is None
    require(neither, "seconds, num_frames", "must not both be given", (seconds, num_frames))
    given = num_frames if seconds is None else seconds
    lengths = []
    for value in given if isinstance(given, list | tuple) else [given]:
        pair = (None, value) if seconds is None else (value, None)
        lengths.append(_latent_frames(parts, *pair, added=added))
    return lengths


def _latent_frames(parts: Pretrained, seconds: Any, num_frames: Any, *, added: bool) -> int:
    if num_frames is not None:
        whole = isinstance(num_frames, int) and not isinstance(num_frames, bool) and num_frames >= 1
        require(whole, "num_frames", "must be a whole number of at least 1", num_frames)
        frames = num_frames
    else:
        wanted = DEFAULT_SECONDS if seconds is None else seconds
        number = isinstance(wanted, int | float) and math.isfinite(wanted) and wanted > 0
        require(number, "seconds", "must be a number above 0", wanted)
        frames = max(1, round(wanted * parts.config.fps))
    require(
        frames <= MAX_SECONDS * parts.config.fps, "seconds, num_frames", "must be at most a day", seconds or num_frames
    )
    compression = parts.tokenizer.compression
    return -(-frames // compression.t) if added else compression.latent_frames(frames)


def _strings(value: str | Sequence[str], argument: str) -> list[str]:
    values = [value] if isinstance(value, str) else value
    fits = isinstance(values, list | tuple) and all(isinstance(item, str) for item in values)
    require(fits, argument, "must be a string or a list of strings", value)
    return list(values)


def _sampling(defaults: SamplingConfig, given: dict[str, Any]) -> SamplingConfig:
    names = [item.name for item in dataclasses.fields(SamplingConfig)]
    for name in given:
        if name not in names:
            raise ReelmError(f"{name}: is no option; the sampling options are {names}")
    for name, value in given.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        require(number or (name == "top_k" and value is None), name, "must be a finite number", value)
    return dataclasses.replace(defaults, **given)


def _pop_temperatures(sampling: dict[str, Any]) -> Schedule[float]:
    """The temperature where it is a schedule, taken out of the options; else an empty one."""
    if not isinstance(sampling.get("temperature"), list | tuple):
        return ()
    schedule: Schedule[float] = read_schedule(sampling.pop("temperature"), "temperature", int, float)
    for _, value in schedule:
        require(1e-6 <= value <= 100, "temperature", "must be between 1e-6 and 100 in a schedule", value)
    return schedule


def _whole(value: Any, argument: str, least: int) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
    require(whole, argument, f"must be a whole number of at least {least}", value)
    return int(value)


def _one_each(values: Sequence[T], count: int, argument: str) -> list[T]:
    """One value for each of `count` prompts, from one for all or one for each."""
    require(len(values) in (1, count), argument, f"must be one, or one for each of the {count} prompts", values)
    return [*values] * count if len(values) == 1 else [*values]


def _seeds(seed: Any, generator: Any, count: int) -> list[int]:
    require(seed is None or generator is None, "seed, generator", "must not both be given", seed)
    if generator is not None:
        generators = generator if isinstance(generator, list | tuple) else [generator]
        kinds = all(isinstance(item, torch.Generator) for item in generators)
        require(kinds, "generator", "must be a torch.Generator or a list of them", generator)
        argument, seeds = (
            "generator",
            [int(torch.randint(2**62, (), generator=item, device=item.device)) for item in generators],
        )
    else:
        argument = "seed"
        seeds = list(seed) if isinstance(seed, list | tuple) else [secrets.randbits(32) if seed is None else seed]
    seeds = _one_each(seeds, count, argument)
    for item in seeds:
        whole = isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**63
        require(whole, argument, "must be a whole number from 0 to 2**63 - 1", item)
    return seeds


def _check_prompts(parts: Pretrained, prompt: Any) -> list[Schedule[str]]:
    prompts = read_prompts(prompt)
    texts = [text for schedule in prompts for _, text in schedule]
    require(len(texts) > 0, "prompt", "must hold at least one prompt", prompt)
    require(all(text.strip() for text in texts), "prompt", "must not be empty", prompt)
    require(all(map(words_of, texts)), "prompt", "must have words in it", prompt)
    _check_text(parts, texts, "prompt")
    return prompts


def _check_text(parts: Pretrained, texts: list[str], argument: str) -> None:
    parts.text.prefix(texts, parts.config.lm.prefix, argument)
    unknown = dict.fromkeys(word for text in texts for word in parts.text.unknown_words(text))
    if unknown:
        note(f"warning: {argument}: the model does not know the words {', '.join(map(repr, list(unknown)[:20]))}")
