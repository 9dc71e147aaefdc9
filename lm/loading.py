"""Load language models for sampling: their weights, with the fastest linear layers for the device, and what they need.

lm, lm_id = load_transformer(config, folder, device, Numerics(weights="int8"))
"""

import functools
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn

from ..core.checkpoint import load_weights, uninitialised
from ..core.errors import CheckpointError, require
from ..core.protocols import Numerics
from .blocks import pack_linears, pack_weight
from .cosmos_lm_config import CosmosLMConfig
from .cosmos_transformer import CosmosTransformer
from .divided_layers import DividedLayers
from .emu3_lm_config import Emu3LMConfig
from .emu3_text import Emu3Text
from .emu3_transformer import Emu3Transformer
from .lm_config import LMConfig
from .neighbours import order_tables
from .quantization import check_machine, quantize_linears, quantize_weight
from .text import TextEncoder
from .transformer import VideoTransformer


def load_transformer(
    config: LMConfig, folder: Path, device: torch.device, numerics: Numerics
) -> tuple[VideoTransformer, str]:
    """Return the model of a checkpoint folder, ready for sampling, and an id of its weights.

    Raises:
        CheckpointError: A file is missing or damaged, or tensors have other shapes than the config says.
        ReelmError: This machine does not support int8 weights on this device or in this dtype.
    """
    check_machine(numerics.weights, device.type)
    try:
        text = TextEncoder((folder / "text.model").read_bytes())
    except OSError as error:
        raise CheckpointError(f"model: text.model must be readable in {str(folder)!r}: {error}") from error
    if text.vocab_size > config.text_vocab_size:
        raise CheckpointError(
            f"model: text.model must have at most {config.text_vocab_size} ids, got {text.vocab_size}"
        )
    rule = "must be 1 for a model with a guidance scale"
    require(config.guidance is None or numerics.processes == 1, "processes", rule, numerics.processes)
    with uninitialised():
        lm = VideoTransformer(config)
    lm_id = load_for_sampling(lm, folder / "lm.safetensors", device, numerics)
    settle(lm, text, numerics)
    return lm, lm_id


def load_for_sampling(lm: nn.Module, path: Path, device: torch.device, numerics: Numerics) -> str:
    """Load the weights of a language model, with the fastest linear layers for the device, and return an id of them.

    Args:
        lm: The model, made inside `uninitialised`; it is on the device afterwards.
        path: The file of its weights.
        device: The device.
        numerics: The dtype of the weights, and the precision of the matrices.

    Raises:
        CheckpointError: The file is missing or damaged, or tensors have other shapes than the model.
    """
    lm.eval().requires_grad_(False)
    # Hashing a large file takes a third as long as all else, so a second core does it at the same time.
    with ThreadPoolExecutor(1, "hash") as pool:
        lm_id = pool.submit(_file_id, path)
        replace: Callable[[str], bool] = functools.partial(
            quantize_weight if numerics.weights == "int8" else pack_weight, lm
        )
        divided = None
        if numerics.processes > 1:
            divided = DividedLayers(lm, processes=numerics.processes, replace=replace)
        load_weights(lm, path, device=device, dtype=numerics.dtype, replace=divided or replace)
        if divided is not None:
            divided.finish()
    lm.to(device)
    return lm_id.result()


def load_cosmos(
    config: CosmosLMConfig, folder: Path, device: torch.device, numerics: Numerics
) -> tuple[CosmosTransformer, str]:
    """Return the model of a converted checkpoint of Cosmos-Predict1, ready for sampling, and an id of its weights.

    Raises:
        CheckpointError: The file is missing or damaged, or tensors have other shapes than the config says.
        ReelmError: This machine does not support int8 weights on this device or in this dtype.
    """
    check_machine(numerics.weights, device.type)
    with uninitialised():
        lm = CosmosTransformer(config)
    lm_id = load_for_sampling(lm, folder / "lm.safetensors", device, numerics)
    lm.weights_precision, lm.cache_precision = numerics.weights, numerics.cache
    lm.processes = numerics.processes
    return lm, lm_id


def load_emu3(
    config: Emu3LMConfig, folder: Path, device: torch.device, numerics: Numerics
) -> tuple[Emu3Transformer, str]:
    """Return the model of a converted checkpoint of Emu3, ready for sampling, and an id of its weights.

    Raises:
        CheckpointError: A file is missing or damaged, or tensors have other shapes than the config says.
        ReelmError: This machine does not support int8 weights on this device or in this dtype.
    """
    check_machine(numerics.weights, device.type)
    try:
        text = Emu3Text((folder / "text.json").read_text(encoding="utf-8"), config)
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"model: text.json must be readable in {str(folder)!r}: {error}") from error
    with uninitialised():
        lm = Emu3Transformer(config)
    lm_id = load_for_sampling(lm, folder / "lm.safetensors", device, numerics)
    lm.text, lm.weights_precision, lm.cache_precision = text, numerics.weights, numerics.cache
    lm.processes = numerics.processes
    return lm, lm_id


def _file_id(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@torch.no_grad()
def random_transformer(
    config: LMConfig, device: torch.device, numerics: Numerics, text: TextEncoder
) -> VideoTransformer:
    """Return a model with random weights, the same for each call on one device, ready for sampling."""
    tables = order_tables(config.layout)  # before the meta device: the layout caches tables, which must have data
    with torch.device("meta"):
        lm = VideoTransformer(config).to(numerics.dtype)
    lm.to_empty(device=device)
    for model in (lm, lm.guided):
        for name, table in tables.items():
            if model is not None:
                setattr(model, name, table.to(device))
    generator = torch.Generator(device).manual_seed(0)
    for weight in lm.parameters():  # norms stay at one
        weight.normal_(std=0.02, generator=generator) if weight.ndim > 1 else weight.fill_(1)
    make_ready(lm, text, numerics)
    return lm


def make_ready(lm: VideoTransformer, text: TextEncoder | None, numerics: Numerics) -> None:
    """Replace the linear layers by those for sampling, and settle the model."""
    lm.eval().requires_grad_(False)
    if numerics.weights == "int8":
        quantize_linears(lm)
    else:
        pack_linears(lm)
    settle(lm, text, numerics)


def settle(lm: VideoTransformer, text: TextEncoder | None, numerics: Numerics) -> None:
    """Set the text encoder and the precisions of both sets of weights, which must not change any more."""
    for model in (lm, lm.guided):
        if model is not None:
            model.text, model.weights_precision, model.cache_precision = text, numerics.weights, numerics.cache
            model.processes = numerics.processes
            model.settled = numerics.processes == 1  # what is compiled adds nothing up
