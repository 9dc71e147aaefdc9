"""The registry of the kinds of language models that a checkpoint can hold.

config = read_lm_config(values["lm"])                          # {"kind": "transformer", …}; "kind" may be left out
lm, lm_id = load_language_model(config, folder, device, numerics)
register("mine", MyConfig, load_mine)                          # add your own model

A kind has a config (a frozen dataclass that implements `LanguageModelConfig`) and a function that loads a model from a
checkpoint folder. No other module depends on the class of a model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..core.config import from_dict, to_dict
from ..core.errors import require
from ..core.json_values import Json
from ..core.protocols import LanguageModel, LanguageModelConfig, Numerics
from .cosmos_lm_config import CosmosLMConfig
from .emu3_lm_config import Emu3LMConfig
from .lm_config import LMConfig
from .loading import load_cosmos, load_emu3, load_transformer

Config = TypeVar("Config", bound=LanguageModelConfig)
# (config, folder, device, numerics) -> the model, ready for sampling, and an id of its weights.
Load = Callable[[Config, Path, torch.device, Numerics], tuple[LanguageModel, str]]

_KINDS: dict[str, tuple[type[Any], Callable[..., tuple[LanguageModel, str]]]] = {
    LMConfig.kind: (LMConfig, load_transformer),
    CosmosLMConfig.kind: (CosmosLMConfig, load_cosmos),
    Emu3LMConfig.kind: (Emu3LMConfig, load_emu3),
}


def register(kind: str, config: type[Config], load: Load[Config]) -> None:
    """Add a kind of language model.

    Args:
        kind: The name of the kind in config.json.
        config: The class of its config.
        load: The function that loads a model from the folder of a checkpoint.

    Raises:
        ReelmError: The kind is registered already.
    """
    require(kind not in _KINDS, "kind", f"must not be one of {', '.join(_KINDS)}", kind)
    _KINDS[kind] = config, load


def read_lm_config(values: object, where: str = "config.json.lm") -> LanguageModelConfig:
    """Return the config of a language model from its JSON values.

    Args:
        values: The JSON values, which should be a dictionary.
        where: The name of the values in error messages.

    Raises:
        ReelmError: The kind is unknown, or the values do not fit the config of the kind.
    """
    kind, sizes = LMConfig.kind, values
    if isinstance(values, dict):
        kind = values.get("kind", kind)
        sizes = {name: value for name, value in values.items() if name != "kind"}
    require(kind in _KINDS, f"{where}.kind", f"must be one of {', '.join(_KINDS)}", kind)
    config: LanguageModelConfig = from_dict(_KINDS[kind][0], sizes, where)
    return config


def write_lm_config(config: LanguageModelConfig) -> Json:
    """Return the JSON values of a config, from which `read_lm_config` restores it."""
    return {"kind": config.kind, **to_dict(config)}


def load_language_model(
    config: LanguageModelConfig, folder: Path, device: torch.device, numerics: Numerics
) -> tuple[LanguageModel, str]:
    """Return the model of a checkpoint folder, ready for sampling, and an id of its weights.

    Raises:
        CheckpointError: A file is missing or damaged, or tensors have other shapes than the config says.
        ReelmError: This machine does not support the requested precision.
    """
    return _KINDS[config.kind][1](config, folder, device, numerics)
