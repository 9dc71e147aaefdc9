"""What a continuation takes over from the clip that it continues.

request, source = inherit(parts, make_request(parts, "continue_clip", None, options, continuing=True), source, options)
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from ..core.errors import require
from ..core.progress import note
from ..sampling.plan import NoiseKey, SamplingConfig
from .pretrained import Pretrained
from .request import SAMPLING, Request
from .source import Source


def inherit(
    parts: Pretrained, request: Request, source: Source, options: Mapping[str, object]
) -> tuple[Request, Source]:
    """Fill in the values of the clip `source` where the user gave none for its continuation.

    A note names conditions that the source was drawn under and that are missing now.

    Args:
        parts: The model.
        request: The request, made with `continuing`; its latent frames are counted from the end of the source.
        source: The clip that is continued.
        options: The user's arguments. A prompt holds from the end of the source on, if that has one of its own.

    Returns:
        The request to continue the source, whose first clip is the source as if it had never stopped and whose others
        are the next samples of its seed, and the source without what the request does not continue: a cache state
        under other conditions, and its detail if that is not wanted.
    """
    plan, after = request.plans[0], len(source.tokens_thw)
    ends = None if plan.latent_frames is None else after + plan.latent_frames
    lengths = (options.get(name) for name in ("seconds", "num_frames", "keys", "axes"))
    if all(length is None for length in lengths) and after < (source.planned or 0):
        ends = source.planned  # what is missing of a clip that was stopped or interrupted
    coming = tuple((after + start, text) for start, text in plan.prompts)
    before = tuple(entry for entry in source.prompts if entry[0] < after)
    if not any(text for _, text in before):  # the given prompt holds for the source too
        before, coming = ((0, plan.prompts[0][1]),), coming[1:]
    prompts = source.prompts if options.get("prompt") is None else before + coming
    changes: dict[str, Any] = {"prompts": prompts, "latent_frames": ends}
    if "temperature" in options:
        changes["temperatures"] = tuple((after + start, value) for start, value in plan.temperatures)
    else:
        changes["temperatures"] = source.temperatures
    if options.get("negative_prompt") is None:
        changes["negative_prompt"] = source.negative_prompt
    keys = [each.key for each in request.plans]
    if source.key is not None and options.get("generator") is None and options.get("seed") is None:
        keys = [NoiseKey(source.key.seed, source.key.sample + number) for number in range(len(keys))]
    if "conditions" not in options:
        changes["conditions"] = source.conditions
        if source.missing:
            note(source.missing)
    # The given tokens of the source come before those that are given now.
    changes["controls"] = {name: torch.cat([source.grids[name], tokens]) for name, tokens in plan.controls.items()}
    sampling = request.sampling
    if source.sampling is not None:
        given = {name: getattr(sampling, name) for name in SAMPLING if name in options}
        sampling = dataclasses.replace(source.sampling, **given)
    negative = options.get("negative_prompt")
    guided = negative is None or sampling.guidance_scale != 1  # the clip's own scale counts where none is given
    require(guided, "negative_prompt", "needs guidance_scale other than 1", negative)
    plans = [dataclasses.replace(plan, **changes, key=key) for key in keys]
    same = plans[0].shares_past(source.prompts, source.negative_prompt, source.conditions, after)
    # In one row the cached keys and values are those of other weights.
    learned, negatives = parts.lm.guidance, bool(plans[0].negative_prompt)
    before_it = source.sampling or SamplingConfig(guidance_scale=1.0)
    drawn, draws = (each.in_one_row(learned, negatives=negatives) for each in (before_it, sampling))
    same = same and drawn == draws
    keeps_detail = source.detailed and bool(options.get("detail", True))
    source = dataclasses.replace(source, cache=source.cache if same else {}, keeps_detail=keeps_detail)
    return dataclasses.replace(request, plans=plans, sampling=sampling), source
