"""The folders of codecs: that of a training or a conversion, or a whole checkpoint.

codec = load_tokenizer(Path("runs/tokenizer"))
config = tokenizer_config(Path("runs/tokenizer"))       # its sizes alone
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.checkpoint import load_weights, read_json, save_tensors, uninitialised
from ..core.device import pick_device
from ..core.modes import in_plain_modes
from ..core.protocols import AnyCodec, CodecConfig
from .codecs import make_codec, read_codec_config

WEIGHTS, SIZES = "tokenizer.safetensors", "tokenizer.json"


def tokenizer_config(folder: Path) -> CodecConfig:
    """Return the config of the codec in the folder of its training or conversion, or in a checkpoint.

    Raises:
        ReelmError: The file is missing or damaged.
    """
    alone, checkpoint = folder / SIZES, folder / "config.json"
    if alone.is_file() or not checkpoint.is_file():
        return read_codec_config(read_json(alone), alone.name)
    return read_codec_config(read_json(checkpoint).get("tokenizer"), checkpoint.name)


@in_plain_modes
def load_tokenizer(folder: Path, config: CodecConfig | None = None, *, device: str | torch.device = "auto") -> AnyCodec:
    """Load the codec of a folder, in float32: its tokens must not depend on the device, and it takes little time.

    Args:
        folder: The folder of its training or conversion, or a checkpoint.
        config: Its config, where it has been read before.
        device: The device.

    Raises:
        ReelmError: A file is missing or damaged, or tensors have other shapes than the config says.
    """
    with uninitialised():
        chosen = config or tokenizer_config(folder)
        codec: Any = make_codec(chosen)
    load_weights(codec, folder / WEIGHTS)
    loaded: AnyCodec = codec.to(pick_device(device)).eval().requires_grad_(False)
    return loaded


def save_codec_weights(codec: AnyCodec, folder: Path) -> None:
    """Write the weights of a codec to a folder, in float16; those that came from bfloat16 files stay what they are."""
    assert isinstance(codec, nn.Module)
    save_tensors(folder / WEIGHTS, {name: _shortened(tensor) for name, tensor in codec.state_dict().items()})


def _shortened(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    half, brain = tensor.half(), tensor.bfloat16()
    exact = not torch.equal(half.to(tensor.dtype), tensor) and torch.equal(brain.to(tensor.dtype), tensor)
    return brain if exact else half
