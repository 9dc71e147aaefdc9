"""A request: the user's arguments, checked before any compute and spread over the clips of a batch.

request = make_request(parts, ["a red ball", "a blue ring"], seed=[1, 2], top_k=50)
latent_frames = check_length(parts, seconds=2.0, num_frames=None)
"""

import dataclasses
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.errors import ReelmError, require
from ..core.progress import note
from ..lm.text import words_of
from .noise import NoiseKey
from .pretrained import Pretrained
from .rollout import StepCallback
from .rules import LogitsProcessor, SamplingConfig

MAX_CLIPS = 4096
DEFAULT_SECONDS = 2.0
MAX_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Request:
    """One entry for each clip of the batch, and what all of them share."""

    prompts: list[str]
    negative_prompts: list[str]
    keys: list[NoiseKey]
    sampling: SamplingConfig
    processors: tuple[LogitsProcessor, ...]
    on_step: StepCallback | None


def make_request(
    parts: Pretrained,
    prompt: str | Sequence[str] | None,
    *,
    num_videos_per_prompt: int = 1,
    negative_prompt: str | Sequence[str] | None = None,
    seed: int | Sequence[int] | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    height: int | None = None,
    width: int | None = None,
    callback_on_step_end: Callable[[int, torch.Tensor], None] | None = None,
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None = None,
    **sampling: Any,
) -> Request:
    """Check the arguments that `generate`, `continue_clip` and `stream` share.

    Args:
        parts: the model, whose defaults hold for what is not given.
        prompt: one prompt or several; None leaves the clip to the model.
        num_videos_per_prompt: samples of each prompt; sample 0 of a seed is what that seed gives alone.
        negative_prompt: what guidance leads away from; one, or one for each prompt.
        seed: a whole number from 0 to 2^63 - 1; one for all prompts, or one for each. Without it, a random one.
        generator: instead of `seed`: a torch.Generator (or one for each prompt) from which a seed is drawn.
        height, width: in pixels; a model has one size, so another one is refused.
        callback_on_step_end: called with (tokens drawn so far, latest tokens (B,)) after each token.
        logits_processor: (input_ids (B, S), scores (B, V)) -> scores; one or several, before temperature.
        sampling: fields of `SamplingConfig`.

    Raises:
        ReelmError: an argument breaks its rule.
    """
    prompts = [""] if prompt is None else _strings(prompt, "prompt")
    require(len(prompts) > 0, "prompt", "must hold at least one prompt", prompt)
    require(prompt is None or all(text.strip() for text in prompts), "prompt", "must not be empty", prompt)
    require(prompt is None or all(map(words_of, prompts)), "prompt", "must have words in it", prompt)
    samples = num_videos_per_prompt
    require(isinstance(samples, int) and samples >= 1, "num_videos_per_prompt", "must be at least 1", samples)
    require(
        len(prompts) * samples <= MAX_CLIPS, "prompt", f"must make at most {MAX_CLIPS} clips", len(prompts) * samples
    )
    for name, value, own in (("height", height, parts.config.height), ("width", width, parts.config.width)):
        require(value in (None, own), name, f"must be {own}, the size that this model was made for", value)
    config = _sampling(parts.config.sampling, sampling)
    negative = [""] if negative_prompt is None else _strings(negative_prompt, "negative_prompt")
    require(len(negative) in (1, len(prompts)), "negative_prompt", f"must be one or {len(prompts)}", negative)
    negative = negative * len(prompts) if len(negative) == 1 else negative
    guided = negative_prompt is None or config.guidance_scale != 1
    require(guided, "negative_prompt", "needs guidance_scale other than 1", negative_prompt)
    seeds = _seeds(seed, generator, len(prompts))
    _check_text(parts, prompts, "prompt")
    _check_text(parts, negative, "negative_prompt")
    processors: list[Any] = list(logits_processor) if isinstance(logits_processor, list | tuple) else [logits_processor]
    processors = [processor for processor in processors if processor is not None]
    require(all(map(callable, processors)), "logits_processor", "must be callable", logits_processor)
    heard = callback_on_step_end is None or callable(callback_on_step_end)
    require(heard, "callback_on_step_end", "must be callable", callback_on_step_end)
    return Request(
        prompts=[text for text in prompts for _ in range(samples)],
        negative_prompts=[text for text in negative for _ in range(samples)],
        keys=[NoiseKey(number, sample) for number in seeds for sample in range(samples)],
        sampling=config,
        processors=tuple(processors),
        on_step=callback_on_step_end,
    )


def check_length(parts: Pretrained, seconds: float | None, num_frames: int | None, *, added: bool = False) -> int:
    """Latent frames that hold so many seconds or frames; `added` to a clip, so that no frame 0 is among them."""
    require(
        seconds is None or num_frames is None, "seconds, num_frames", "must not both be given", (seconds, num_frames)
    )
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
    require(
        len(seeds) in (1, count),
        argument,
        f"must be one, or one for each of the {count} prompts",
        seed if generator is None else generator,
    )
    for item in seeds:
        whole = isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**63
        require(whole, argument, "must be a whole number from 0 to 2**63 - 1", item)
    return seeds * count if len(seeds) == 1 else seeds


def _check_text(parts: Pretrained, texts: list[str], argument: str) -> None:
    parts.text.prefix(texts, parts.config.lm.prefix, argument)
    unknown = dict.fromkeys(word for text in texts for word in parts.text.unknown_words(text))
    if unknown:
        note(f"warning: {argument}: the model does not know the words {', '.join(map(repr, list(unknown)[:20]))}")
