"""The language models that a checkpoint can hold, by the name of their kind in config.json.

config = read_lm_config(values["lm"])                          # {"kind": "transformer", …}; that kind if it has no name
lm, lm_id = load_language_model(config, folder, device, numerics)
register("mine", MyConfig, load_mine)                          # a model of one's own

A kind is a config (a frozen dataclass that meets `LanguageModelConfig`) and a function that loads the weights of a
folder. Nothing else names a class of models.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..core.config import from_dict, to_dict
from ..core.errors import require
from ..core.protocols import LanguageModel, LanguageModelConfig, Numerics
from .lm_config import LMConfig
from .loading import load_transformer

# (config, folder, device, numerics) -> the model, ready to sample, and a name of its weights.
Load = Callable[[Any, Path, torch.device, Numerics], tuple[LanguageModel, str]]

_KINDS: dict[str, tuple[type[Any], Callable[..., tuple[LanguageModel, str]]]] = {
    LMConfig.kind: (LMConfig, load_transformer)
}


def register(kind: str, config: type[LanguageModelConfig], load: Load) -> None:
    """Have checkpoints of this kind be loaded by `load`; a kind that is known already is refused."""
    require(kind not in _KINDS, "kind", f"must not be one of {', '.join(_KINDS)}", kind)
    _KINDS[kind] = config, load


def read_lm_config(values: Any, where: str = "config.json.lm") -> LanguageModelConfig:
    """The config of a language model from its JSON values; a `ReelmError` names what does not fit."""
    named = isinstance(values, dict)
    kind = values.get("kind", LMConfig.kind) if named else LMConfig.kind
    require(kind in _KINDS, f"{where}.kind", f"must be one of {', '.join(_KINDS)}", kind)
    rest = {name: value for name, value in values.items() if name != "kind"} if named else values
    config: LanguageModelConfig = from_dict(_KINDS[kind][0], rest, where)
    return config


def write_lm_config(config: LanguageModelConfig) -> dict[str, Any]:
    """The JSON values that `read_lm_config` reads."""
    return {"kind": config.kind, **to_dict(config)}


def load_language_model(
    config: LanguageModelConfig, folder: Path, device: torch.device, numerics: Numerics
) -> tuple[LanguageModel, str]:
    """The model of a checkpoint folder, ready to sample, and a name of its weights.

    Raises:
        CheckpointError: a file is missing, damaged or of another shape.
        ReelmError: this machine cannot compute in the precision that is asked for.
    """
    return _KINDS[config.kind][1](config, folder, device, numerics)
