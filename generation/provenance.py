"""What a clip records of how it was made, read back with caution: what is not sound in a file is left out.

The values are those that `Pretrained.settings` writes.
"""

import dataclasses
from typing import Any

from ..core.config import from_dict
from ..sampling.noise_keys import NoiseKey
from ..sampling.rules import SamplingConfig


def read_key(seed: Any, settings: dict[str, Any]) -> NoiseKey | None:
    """The noise that a clip was drawn with."""
    sample = settings.get("sample", 0)
    if type(seed) is int and 0 <= seed < 2**63 and type(sample) is int and 0 <= sample < 2**31:
        return NoiseKey(seed, sample)
    return None


def read_sampling(settings: dict[str, Any]) -> SamplingConfig | None:
    """The sampling settings that a clip was drawn with."""
    names = [item.name for item in dataclasses.fields(SamplingConfig)]
    try:
        return from_dict(SamplingConfig, {name: settings[name] for name in names})
    except (KeyError, ValueError):
        return None


def read_latent_schedule(value: Any, *kinds: type) -> tuple[tuple[int, Any], ...]:
    """A schedule by latent frames, or an empty one."""
    entries = value if isinstance(value, list) else []
    sound = all(isinstance(e, list) and len(e) == 2 and type(e[0]) is int and type(e[1]) in kinds for e in entries)
    starts = [start for start, _ in entries] if sound else []
    return tuple((start, entry) for start, entry in entries) if starts and starts == sorted({0, *starts}) else ()
