"""Conversion of NVIDIA's published Cosmos tokenizers, a folder with encoder.jit and decoder.jit, to one of reelm.

    report = convert_cosmos(Path("Cosmos-Tokenize1-DV8x16x16-720p"), Path("cosmos"))

Sizes are read from the shapes of the weights. Which layers halve what is not among them: it is in the folder's name.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from ..core.atomic_folders import atomic_folder
from ..core.checkpoint import save_json, save_tensors
from ..core.errors import CheckpointError, require
from ..core.torch_archive import TorchArchive
from .codec_files import SIZES, WEIGHTS
from .codecs import without_weights, write_codec_config
from .cosmos_config import CosmosConfig

FILES = ("encoder.jit", "decoder.jit")
# Tables that the networks compute from their sizes: the levels of the quantizer and the filters of the patches.
COMPUTED = re.compile(r"(^|\.)(quantizer|patcher3d|unpatcher3d)\.")
LEVELS = "quantizer._levels"


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion has read and written.

    Attributes:
        folder: The folder that was written.
        config: The sizes of the tokenizer.
        tensors: The number of its tensors.
        left_out: The names in the archives of tables that are computed here, and were not copied.
    """

    folder: Path
    config: CosmosConfig
    tensors: int
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        side = self.config.compression
        return f"a tokenizer of {side.t}x{side.h}x{side.w}, {self.tensors} tensors"


def convert_cosmos(source: Path, target: Path, *, compression: str | None = None) -> ConversionReport:
    """Convert a tokenizer: all of it, or nothing is written. No code of the archives is run; see `TorchArchive`.

    Args:
        source: The folder with encoder.jit and decoder.jit.
        target: The folder to write, which must be new or empty: tokenizer.json and tokenizer.safetensors.
        compression: The frames x rows x columns of pixels of a token, such as "8x16x16"; None takes them from the
            name of `source`.

    Raises:
        CheckpointError: A file is missing, damaged, holds code, or has other tensors than such a tokenizer.
        ReelmError: The compression is not known, or the folder cannot be written.
    """
    temporal, spatial = _compression(source, compression)
    tensors: dict[str, torch.Tensor] = {}
    left_out: list[str] = []
    levels: tuple[int, ...] = CosmosConfig.levels
    for file in FILES:
        with TorchArchive(source / file) as archive:
            for name in archive.names:
                if name == LEVELS:
                    levels = tuple(archive.tensor(name).flatten().tolist())
                if COMPUTED.search(name):
                    left_out.append(f"{file}: {name}")
                else:
                    tensors[name] = archive.tensor(name)
    config = _sizes(tensors, temporal, spatial, levels)
    _check(tensors, config)
    with atomic_folder(target, "target") as folder:
        save_tensors(folder / WEIGHTS, tensors)
        save_json(folder / SIZES, write_codec_config(config))
    return ConversionReport(target, config, len(tensors), tuple(left_out))


def _compression(source: Path, given: str | None) -> tuple[int, int]:
    found = re.search(r"(?<!\d)(4x8x8|8x8x8|8x16x16)(?!\d)", given or source.resolve().name)
    rule = "must be 4x8x8, 8x8x8 or 8x16x16, or a part of the folder's name"
    require(found is not None, "compression", rule, given or source.name)
    assert found is not None
    temporal, spatial, _ = map(int, found[0].split("x"))
    return temporal, spatial


def _sizes(tensors: dict[str, torch.Tensor], temporal: int, spatial: int, levels: tuple[int, ...]) -> CosmosConfig:
    """Return the sizes that the shapes of the weights say."""
    try:
        channels, inputs = tensors["encoder.conv_in.0.conv3d.weight"].shape[:2]
        stages = _numbers(tensors, r"encoder\.down\.(\d+)\.block\.0\.")
        widths = [len(tensors[f"encoder.down.{stage}.block.0.norm2.norm.weight"]) for stage in stages]
        latent = len(tensors["encoder.conv_out.0.conv3d.weight"])
        blocks = len(_numbers(tensors, r"encoder\.down\.0\.block\.(\d+)\."))
        return CosmosConfig(
            temporal=temporal, spatial=spatial, patch=round((inputs / 3) ** (1 / 3)), channels=channels,
            multipliers=tuple(width // channels for width in widths), blocks=blocks, latent_channels=latent,
            levels=levels,
        )  # fmt: skip
    except (LookupError, ValueError, TypeError, ArithmeticError) as error:  # a tensor that is missing, or of no size
        raise CheckpointError(f"source: must hold the weights of a Cosmos tokenizer: {error}") from error


def _numbers(tensors: dict[str, torch.Tensor], pattern: str) -> list[int]:
    return sorted({int(match[1]) for name in tensors if (match := re.match(pattern, name))})


def _check(tensors: dict[str, torch.Tensor], config: CosmosConfig) -> None:
    """Check every name, shape and value.

    Raises:
        CheckpointError: One is missing, unknown or wrong.
    """
    wanted = without_weights(config).state_dict()
    missing, unknown = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or unknown:
        shown = f"without {', '.join(missing[:3])}" if missing else f"with {', '.join(unknown[:3])}"
        raise CheckpointError(
            f"source: must have the {len(wanted)} tensors of this tokenizer, got {len(tensors)}, {shown}"
        )
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"source: {name} must have the shape {tuple(wanted[name].shape)}, got {tuple(tensor.shape)}"
            )
        if not (tensor.is_floating_point() and bool(tensor.isfinite().all())):
            raise CheckpointError(f"source: {name} must have finite floating-point values")
