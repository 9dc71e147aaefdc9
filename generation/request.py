"""A request: the user's arguments, checked before any computation and turned into the plans of a batch of clips.

request = make_request(parts, "generate", ["a red ball", "a blue ring"], {"seed": [1, 2], "top_k": 50})
request.plans[1].latent_frames
"""

import contextlib
import dataclasses
import difflib
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from ..core.condition import Condition
from ..core.errors import ReelmError, require
from ..core.plain_values import to_python
from ..core.progress import note
from ..lm.text import words_of
from ..sampling.decoder import Decoder
from ..sampling.decoders import make_decoder
from ..sampling.engine import Engine
from ..sampling.plan import ClipPlan, LogitsProcessor, NoiseKey, SamplingConfig
from .arguments import (
    Schedule,
    check_names,
    is_number,
    is_schedule,
    read_prompts,
    read_schedule,
    to_latent_frames,
)
from .block_sizes import BlockSizes
from .held import length_of_keys, read_controls
from .options import Prompt, Prompts, StepCallback, TokensCallback
from .pretrained import ModelConfig, Pretrained
from .video import check_output_type

T = TypeVar("T")

MAX_CLIPS = 4096
DEFAULT_SECONDS = 2.0
MAX_SECONDS = 24 * 3600.0
SAMPLING = tuple(field.name for field in dataclasses.fields(SamplingConfig))


@dataclass(frozen=True)
class Request:
    """The plans of the clips of a batch, and what all of them share.

    Attributes:
        plans: The plans of the clips.
        sampling: The sampling settings.
        decoder: The decoder.
        processors: The logits processors.
        on_step: A function to call after each step of the decoder.
        batch_size: The number of clips drawn at a time.
        on_tokens: A function to call with the sessions when all tokens are drawn.
        keep_state: Whether the clips get their cache states.
    """

    plans: list[ClipPlan]
    sampling: SamplingConfig
    decoder: Decoder
    processors: tuple[LogitsProcessor, ...] = ()
    on_step: StepCallback | None = None
    batch_size: int = 1
    on_tokens: TokensCallback | None = None
    keep_state: bool = False

    @property
    def negatives(self) -> bool:
        """Whether a clip has a negative prompt."""
        return any(plan.negative_prompt for plan in self.plans)

    def engine(self, parts: Pretrained) -> Engine:
        """Return an engine that draws these clips, in their order."""
        user, none = self.on_step, torch.empty(0, dtype=torch.int64)

        def on_step(passes: int, accepted: dict[int, torch.Tensor]) -> object:
            assert user is not None
            return to_python(user(passes, [accepted.get(clip, none) for clip in range(len(self.plans))]))

        model, settings = self.sampling.chosen(parts.lm, negatives=self.negatives)
        return Engine(
            model, settings, capacity=self.batch_size, decoder=self.decoder, processors=self.processors,
            on_step=None if user is None else on_step,
        )  # fmt: skip


def make_request(
    parts: Pretrained, call: str, prompt: Prompt | Prompts | None, options: Mapping[str, object], *,
    continuing: bool = False,
) -> Request:  # fmt: skip
    """Check the arguments of a call that draws tokens; the model's defaults fill in the rest.

    Warnings name words that the model does not know, and say what it reads of a prompt that is too long for it.

    Args:
        parts: The model.
        call, prompt, options, continuing: The same as for `read_request`.

    Raises:
        ReelmError: An argument breaks its rule.
    """
    on_gpu = parts.lm.device.type == "cuda"
    sizes = BlockSizes.of(parts)
    request = read_request(parts.config, call, prompt, options, continuing=continuing, on_gpu=on_gpu, sizes=sizes)
    _check_conditions(parts, request.plans[0].conditions)
    if parts.lm.horizon == 1:
        alone = not continuing and all(plan.latent_frames == 1 for plan in request.plans)
        require(alone, "num_frames", "must be 1 for a model of single pictures, which do not go on", call)
    drawn = options.get("seed") is None and options.get("generator") is None
    together = parts.lm.numerics.processes
    require(together == 1 or not drawn, "seed", "must be given where several processes draw together", None)
    unguided = "text" in parts.lm.reads or request.sampling.guidance_scale == 1
    require(unguided, "guidance_scale", "must be 1 for a model that reads no prompts", request.sampling.guidance_scale)
    _say_late_changes(request)
    prompts = dict.fromkeys(text for plan in request.plans for _, text in plan.prompts)
    negatives = dict.fromkeys(plan.negative_prompt for plan in request.plans)
    reads = _readable(parts, prompts, "prompt") | _readable(parts, negatives, "negative_prompt")
    plans = [
        dataclasses.replace(
            plan, prompts=tuple((start, reads[text]) for start, text in plan.prompts),
            negative_prompt=reads[plan.negative_prompt],
        )
        for plan in request.plans
    ]  # fmt: skip
    return dataclasses.replace(request, plans=plans)


def read_request(
    config: ModelConfig, call: str, prompt: Prompt | Prompts | None, options: Mapping[str, object], *,
    continuing: bool = False, on_gpu: bool = False, sizes: BlockSizes | None = None,
) -> Request:  # fmt: skip
    """Check those arguments of a call that can be checked by the config of the model, before its weights are loaded.

    Args:
        config: The config of the model.
        call: The name of the call, which determines its options (arguments.py).
        prompt: One prompt or several.
        options: The user's other arguments; `num_videos_per_prompt` is the number of samples of each prompt: sample 0
            of a seed is the clip that the seed gives alone.
        continuing: Whether a clip is continued; second 0 of a schedule is then the end of that clip.
        on_gpu: Whether the model is on a GPU.
        sizes: The block sizes that were measured for the model.

    Raises:
        ReelmError: An argument breaks its rule.
    """
    check_names(call, options)
    output_type = options.get("output_type")
    if output_type is not None:
        check_output_type(output_type, "output_type")
    given: dict[str, Any] = {name: to_python(value) for name, value in options.items()}
    prompts = [((0.0, ""),)] if prompt is None else _check_prompts(prompt)
    single = call == "generate" or len(prompts) == 1
    require(single, "prompt", f"must be a single one to {call.removesuffix('_clip')}", prompt)
    samples = given.get("num_videos_per_prompt")
    count = 1 if samples is None else _whole(samples, "num_videos_per_prompt", 1)
    require(len(prompts) * count <= MAX_CLIPS, "prompt", f"must make at most {MAX_CLIPS} clips", len(prompts) * count)
    for name, own in (("height", config.height), ("width", config.width)):
        size = given.get(name)
        fits = size is None or (isinstance(size, int | float) and size == own)
        require(fits, name, f"must be {own}, the size that this model was made for", size)
    draws = {name: given[name] for name in SAMPLING if name in given}
    temperatures = _pop_temperatures(draws)
    sampling = _sampling(config.sampling, draws)
    negatives = _negatives(given.get("negative_prompt"), len(prompts), sampling)
    seeds = _seeds(given.get("seed"), given.get("generator"), len(prompts))
    processors = _processors(given.get("logits_processor"))
    for name, none in (("detail", False), ("keep_state", True)):
        value = given.get(name, True)
        require(isinstance(value, bool) or (none and value is None), name, "must be True or False", value)
    for name in ("callback_on_step_end", "callback_on_tokens"):
        require(given.get(name) is None or callable(given[name]), name, "must be callable", given.get(name))
    conditions = given.get("conditions", ())
    listed = isinstance(conditions, list | tuple) and all(isinstance(each, Condition) for each in conditions)
    require(listed, "conditions", "must be a list of conditions (core/condition.py)", conditions)
    controls: dict[str, torch.Tensor] = {}
    if any(given.get(name) is not None for name in ("keys", "axes", "controls")):
        controls = read_controls(config, given, continuing=continuing)
        given |= {} if call == "stream" else length_of_keys(config, given, continuing=continuing)
    ends = _ends(config, call, given, len(prompts), continuing=continuing)
    rate: dict[str, Any] = {"fps": config.fps, "compression": config.tokenizer.compression, "continuing": continuing}
    changes = to_latent_frames(temperatures, **rate) if temperatures else ()
    plans = [
        ClipPlan(
            prompts=to_latent_frames(schedule, **rate), negative_prompt=negative, conditions=tuple(conditions),
            controls=controls, key=NoiseKey(seed, sample), latent_frames=end, temperatures=changes,
        )
        for schedule, negative, seed, end in zip(prompts, negatives, seeds, ends, strict=True)
        for sample in range(count)
    ]  # fmt: skip
    batch_size = given.get("batch_size")
    batch_size = len(plans) if batch_size is None else min(_whole(batch_size, "batch_size", 1), len(plans))
    mixed = any(negatives) and not all(negatives) and sampling.in_one_row(config.lm.guidance)
    rule = "must be given for all prompts of a call or for none where one row guides (see guidance='two-row')"
    require(not mixed, "negative_prompt", rule, negatives)
    rows = batch_size * sampling.rows(config.lm.guidance, negatives=any(negatives))
    decoder = make_decoder(
        given.get("decoder", "auto"), given.get("block_size"), layout=config.lm.layout, rows=rows, on_gpu=on_gpu,
        sequential_only=bool(processors), measured=None if sizes is None else sizes.best(rows),
    )  # fmt: skip
    on_step, on_tokens = given.get("callback_on_step_end"), given.get("callback_on_tokens")
    keep_state = given.get("keep_state")
    if keep_state is None:
        keep_state = len(plans) == 1 and output_type is None
    return Request(plans, sampling, decoder, processors, on_step, batch_size, on_tokens, keep_state)


@contextlib.contextmanager
def unmoved_if_refused(options: Mapping[str, object]) -> Iterator[None]:
    """Set the torch generators among a call's options back to where they were if the call is refused inside."""
    given = options.get("generator")
    listed = given if isinstance(given, list | tuple) else [given]
    before = [(each, each.get_state()) for each in listed if isinstance(each, torch.Generator)]
    try:
        yield
    except ReelmError:
        for generator, state in before:
            generator.set_state(state)
        raise


def is_batch(prompt: Prompt | Prompts | None) -> bool:
    """Return whether this is a list of prompts, and neither a single prompt nor the schedule of one."""
    given = to_python(prompt)
    return isinstance(given, list | tuple) and not is_schedule(given)


def pick_decoder(
    parts: Pretrained, decoder: str | Decoder, block_size: int | None, sampling: SamplingConfig, clips: int
) -> Decoder:
    """Return the decoder for so many clips of this model at a time; see `make_decoder`."""
    lm, rows = parts.lm, clips * sampling.rows(parts.lm.guidance)
    return make_decoder(
        decoder, block_size, layout=lm.layout, rows=rows, on_gpu=lm.device.type == "cuda",
        measured=BlockSizes.of(parts).best(rows),
    )  # fmt: skip


def _ends(
    config: ModelConfig, call: str, given: Mapping[str, Any], prompts: int, *, continuing: bool
) -> list[int | None]:
    """Return the latent frames of each clip, or None for no end, which only a stream and a play may have."""
    seconds, num_frames = given.get("seconds"), given.get("num_frames")
    if call in ("stream", "play") and seconds is num_frames is None:
        return [None] * prompts
    lengths = check_lengths(config, seconds, num_frames, continuing=continuing)
    return _one_each([*lengths], prompts, "seconds, num_frames")


def check_lengths(
    config: ModelConfig, seconds: float | Sequence[float] | None, num_frames: int | Sequence[int] | None, *,
    continuing: bool = False,
) -> list[int]:  # fmt: skip
    """Return the latent frames that hold so many seconds or frames, for one length or a list of them.

    Args:
        config: The config of the model.
        seconds: One length in seconds or a list of them.
        num_frames: One length in frames or a list of them, in place of `seconds`; both None for the default.
        continuing: Whether the latent frames are added to a clip, so that latent frame 0 is not among them.

    Raises:
        ReelmError: Both are given, or one is out of its range.
    """
    neither = seconds is None or num_frames is None
    require(neither, "seconds, num_frames", "must not both be given", (seconds, num_frames))
    given: Any = to_python(num_frames if seconds is None else seconds)
    if given is None and config.lm.window == 1:  # a model of single pictures
        return [1]
    lengths = []
    for value in given if isinstance(given, list | tuple) else [given]:
        pair = (None, value) if seconds is None else (value, None)
        lengths.append(_latent_frames(config, *pair, continuing=continuing))
    return lengths


def _latent_frames(config: ModelConfig, seconds: Any, num_frames: Any, *, continuing: bool) -> int:
    if num_frames is not None:
        whole = isinstance(num_frames, int) and not isinstance(num_frames, bool) and num_frames >= 1
        require(whole, "num_frames", "must be a whole number of at least 1", num_frames)
        frames = num_frames
    else:
        wanted = DEFAULT_SECONDS if seconds is None else seconds
        require(is_number(wanted) and wanted > 0, "seconds", "must be a number above 0", wanted)
        frames = max(1, round(wanted * config.fps))
    day = MAX_SECONDS * config.fps
    require(frames <= day, "seconds, num_frames", "must be at most a day", seconds or num_frames)
    compression = config.tokenizer.compression
    return -(-frames // compression.t) if continuing else compression.latent_frames(frames)


def _strings(value: str | Sequence[str], argument: str) -> list[str]:
    values = [value] if isinstance(value, str) else value
    fits = isinstance(values, list | tuple) and all(isinstance(item, str) for item in values)
    require(fits, argument, "must be a string or a list of strings", value)
    return list(values)


def _sampling(defaults: SamplingConfig, given: dict[str, Any]) -> SamplingConfig:
    if type(given.get("top_k")) is int and given["top_k"] >= 2**63:  # all, as any number from the vocabulary's size on
        given = given | {"top_k": None}
    for name, value in given.items():
        free = name == "guidance" or (name == "top_k" and value is None)
        require(free or is_number(value), name, "must be a finite number", value)
    return dataclasses.replace(defaults, **given)


def _pop_temperatures(sampling: dict[str, Any]) -> Schedule[float]:
    """Remove the temperature from the options if it is a schedule, and return it; else return an empty schedule."""
    given = sampling.get("temperature")
    if isinstance(given, np.ndarray | torch.Tensor) and given.ndim == 2:
        sampling["temperature"] = to_python(list(given))
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
    """Return one value for each of `count` prompts, from one for all or one for each."""
    require(len(values) in (1, count), argument, f"must be one, or one for each of the {count} prompts", values)
    return [*values] * count if len(values) == 1 else [*values]


def _seeds(seed: Any, generator: Any, count: int) -> list[int]:
    require(seed is None or generator is None, "seed, generator", "must not both be given", seed)
    if generator is not None:
        generators = generator if isinstance(generator, list | tuple) else [generator]
        valid = all(isinstance(item, torch.Generator) for item in generators)
        require(valid, "generator", "must be a torch.Generator or a list of them", generator)
        argument = "generator"
        seeds = [int(torch.randint(2**62, (), generator=item, device=item.device)) for item in generators]
    else:
        argument = "seed"
        seeds = list(seed) if isinstance(seed, list | tuple) else [secrets.randbits(32) if seed is None else seed]
    seeds = _one_each(seeds, count, argument)
    for item in seeds:
        whole = isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 2**63
        require(whole, argument, "must be a whole number from 0 to 2**63 - 1", item)
    return seeds


def _negatives(given: Any, prompts: int, sampling: SamplingConfig) -> list[str]:
    """Return the negative prompt of each clip."""
    texts = _one_each(_strings("" if given is None else given, "negative_prompt"), prompts, "negative_prompt")
    guided = given is None or sampling.guidance_scale != 1
    require(guided, "negative_prompt", "needs guidance_scale other than 1", given)
    return texts


def _processors(given: Any) -> tuple[LogitsProcessor, ...]:
    processors = tuple(given) if isinstance(given, list | tuple) else (given,)
    processors = tuple(processor for processor in processors if processor is not None)
    require(all(map(callable, processors)), "logits_processor", "must be callable", given)
    return processors


def _check_prompts(prompt: Prompt | Prompts) -> list[Schedule[str]]:
    prompts = read_prompts(to_python(prompt))
    texts = [text for schedule in prompts for _, text in schedule]
    require(len(texts) > 0, "prompt", "must hold at least one prompt", prompt)
    require(all(text.strip() for text in texts), "prompt", "must not be empty", prompt)
    require(all(map(words_of, texts)), "prompt", "must have words in it", prompt)
    return prompts


def _readable(parts: Pretrained, texts: Iterable[str], argument: str) -> dict[str, str]:
    """Return what the model reads of each text, by text, after warnings about the rest and about unknown words."""
    reads = {text: parts.lm.shorten(text) for text in texts}
    for text, kept in reads.items():
        if kept != text:
            counts = f"{len(words_of(kept))} of {len(words_of(text))} words"
            note(f"warning: {argument}: is too long for the model, which reads the first {counts}: {kept!r}")
    found = (word for text in reads.values() for word in parts.lm.unknown_words(text, argument))
    unknown = list(dict.fromkeys(found))
    if unknown:
        known = parts.lm.known_words
        # Short words look like many others: "two" is not "to".
        near = {
            word: difflib.get_close_matches(word, known, n=1, cutoff=0.7) if len(word) > 3 else []
            for word in unknown[:20]
        }
        shown = ", ".join(repr(word) + "".join(f" (did you mean {each!r}?)" for each in near[word]) for word in near)
        where = f"; reelm info --words lists the {len(known)} that it knows" if known else ""
        note(f"warning: {argument}: the model does not know the words {shown}{where}")
    return reads


def _say_late_changes(request: Request) -> None:
    """Warn of changes that come after the end of all clips that they are for."""
    plans = request.plans
    late: list[tuple[str, object]] = []
    late += [("prompt", text) for plan in plans for start, text in plan.prompts if not plan.holds(start)]
    temperatures = [each for each in plans[0].temperatures if not any(plan.holds(each[0]) for plan in plans)]
    late += [("temperature", value) for _, value in temperatures]
    for argument, value in dict.fromkeys(late):
        note(f"warning: {argument}: {value!r} begins after the end of the clip; only a continuation comes to it")


def _check_conditions(parts: Pretrained, conditions: Sequence[Condition]) -> None:
    for each in conditions:
        reads = [kind for kind in parts.lm.reads if kind != "text"]  # it has an option of its own
        none = "must be none: this model reads its prompt alone"
        rule = f"must be of the kinds {', '.join(reads)}" if reads else none
        require(each.kind in reads, "conditions", rule, each.kind)
