"""The registry of the kinds of codecs that a checkpoint can hold.

config = read_codec_config(values["tokenizer"])         # {"kind": "cosmos", …}; without "kind" our own
codec = make_codec(config)                              # weights are loaded by codec_files.py
register_codec(MyConfig, MyCodec)                       # add your own codec: the class of its config, and it

A codec is a module that is made from its config, a frozen dataclass that implements `CodecConfig`, and whose weights
are in tokenizer.safetensors. Only what trains or measures our own tokenizers names the class of one.
"""

import functools
from typing import Any

import torch
from torch import nn

from ..core.config import from_dict, to_dict
from ..core.errors import require
from ..core.json_values import Json
from ..core.protocols import AnyCodec, CodecConfig
from .cosmos_config import CosmosConfig
from .cosmos_tokenizer import CosmosTokenizer
from .emu3_config import Emu3CodecConfig
from .emu3_tokenizer import Emu3Tokenizer
from .tokenizer_config import TokenizerConfig
from .video_tokenizer import VideoTokenizer

_KINDS: dict[str, tuple[type[Any], type[Any]]] = {
    TokenizerConfig.kind: (TokenizerConfig, VideoTokenizer), CosmosConfig.kind: (CosmosConfig, CosmosTokenizer),
    Emu3CodecConfig.kind: (Emu3CodecConfig, Emu3Tokenizer),
}  # fmt: skip


def register_codec(config: type[Any], codec: type[Any]) -> None:
    """Add a kind of codec.

    Args:
        config: The class of its config, which implements `CodecConfig`.
        codec: The class of the codec, a module that implements `Codec` and is made from a config.

    Raises:
        ReelmError: The kind is registered already.
    """
    require(config.kind not in _KINDS, "kind", f"must not be one of {', '.join(_KINDS)}", config.kind)
    _KINDS[config.kind] = config, codec


def read_codec_config(values: object, where: str = "config.json.tokenizer") -> CodecConfig:
    """Return the config of a codec from its JSON values.

    Args:
        values: The JSON values, which should be a dictionary.
        where: The name of the values in error messages.

    Raises:
        ReelmError: The kind is unknown, or the values do not fit the config of the kind.
    """
    kind, sizes = TokenizerConfig.kind, values
    if isinstance(values, dict):
        kind = values.get("kind", kind)
        sizes = {name: value for name, value in values.items() if name != "kind"}
    require(kind in _KINDS, f"{where}.kind", f"must be one of {', '.join(_KINDS)}", kind)
    config: CodecConfig = from_dict(_KINDS[kind][0], sizes, where)
    return config


def write_codec_config(config: CodecConfig) -> Json:
    """Return the JSON values of a config, from which `read_codec_config` restores it."""
    return ({} if config.kind == TokenizerConfig.kind else {"kind": config.kind}) | to_dict(config)


def make_codec(config: CodecConfig) -> AnyCodec:
    """Return a codec with random weights, on the device of the context."""
    codec: AnyCodec = _KINDS[config.kind][1](config)
    return codec


def without_weights(config: CodecConfig) -> nn.Module:
    """Return a codec whose tensors have shapes and no values."""
    with torch.device("meta"):
        codec = make_codec(config)
    assert isinstance(codec, nn.Module)
    return codec


@functools.cache
def tokenizer_bytes(config: CodecConfig) -> int:
    """Return the bytes of a codec's weights and learned codes, which are float32 on every device."""
    return 4 * sum(tensor.numel() for tensor in without_weights(config).state_dict().values())


@functools.cache
def count_parameters(config: CodecConfig) -> int:
    """Return the number of a codec's parameters, learned codes not included."""
    return sum(parameter.numel() for parameter in without_weights(config).parameters())
