"""Read back what a clip records of its generation; whatever in a file is not valid is left out.

The values are those that `Pretrained.settings` writes.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

from ..core.condition import Condition, describe_conditions
from ..core.config import from_dict
from ..core.json_values import Json
from ..core.protocols import LanguageModel
from ..sampling.plan import NoiseKey, PromptSchedule, SamplingConfig, TemperatureSchedule

T = TypeVar("T")


def read_key(seed: object, settings: Json) -> NoiseKey | None:
    """Return the key of the noise that a clip was drawn with, or None."""
    sample = settings.get("sample", 0)
    if type(seed) is int and 0 <= seed < 2**63 and type(sample) is int and 0 <= sample < 2**31:
        return NoiseKey(seed, sample)
    return None


def read_sampling(settings: Json) -> SamplingConfig | None:
    """Return the sampling settings that a clip was drawn with, or None."""
    names = [item.name for item in dataclasses.fields(SamplingConfig)]
    try:
        return from_dict(SamplingConfig, {name: settings[name] for name in names})
    except (KeyError, ValueError):
        return None


def read_schedules(settings: Json) -> tuple[PromptSchedule, TemperatureSchedule]:
    """Return the schedules by latent frames of a clip's prompts and temperatures; empty ones where there are none."""
    temperatures = _latent_schedule(settings.get("temperatures"), int, float)
    possible = all(1e-6 <= temperature <= 100 for _, temperature in temperatures)
    return _latent_schedule(settings.get("prompts"), str), temperatures if possible else ()


def _latent_schedule(value: object, *types: type[T]) -> tuple[tuple[int, T], ...]:
    """Return a schedule by latent frames with values of one of these types, or an empty one."""
    entries = value if isinstance(value, list) else []
    valid = all(isinstance(e, list) and len(e) == 2 and type(e[0]) is int and type(e[1]) in types for e in entries)
    starts = [start for start, _ in entries] if valid else []
    return tuple((start, entry) for start, entry in entries) if starts and starts == sorted({0, *starts}) else ()


def read_prompt(lm: LanguageModel, prompt: str, *, own: bool = False) -> str:
    """Return the prompt of a clip, or an empty one where this model cannot read it, as it may be another model's.

    Args:
        lm: The language model.
        prompt: The prompt.
        own: Whether the clip was drawn by this model, which then ignored words that it does not know.
    """
    try:
        unknown = lm.unknown_words(prompt, "prompt")
    except ValueError:
        return ""
    return prompt if own or not unknown else ""


def missing_conditions(settings: Json, conditions: Sequence[Condition]) -> str | None:
    """Return a warning that names the conditions a clip was drawn under and that did not come with it, or None."""
    recorded, kept = settings.get("conditions"), describe_conditions(conditions)
    missing = [str(kind) for kind in (recorded if isinstance(recorded, list) else []) if kind not in kept]
    return (
        f"warning: conditions: the clip was made under {', '.join(missing)}, which is not with it" if missing else None
    )
