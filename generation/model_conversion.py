"""Conversion of published weights to folders of reelm: models of NVIDIA's Cosmos-Predict1 and its tokenizers, and Emu3.

    report = convert(Path("Cosmos-Predict1-4B"), Path("cosmos-4b"), tokenizer=Path("Cosmos-Tokenize1-DV8x16x16-720p"))
    VideoGenerator.from_pretrained("cosmos-4b")

Nothing in the files is run (core/torch_archive.py). A tensor at a time is in memory. What is written before an
interruption is gone on with by the next call; the folder appears when it is whole.
"""

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..core.atomic_folders import resumable_folder
from ..core.checkpoint import read_json
from ..core.errors import CheckpointError, require
from ..core.files import atomic_write
from ..core.progress import note
from ..core.protocols import CodecConfig
from ..core.streamed_tensors import StreamedTensor, write_tensors
from ..lm.conversion import PrefixedSource, Rows, stream_tensors
from ..lm.cosmos_weights import CosmosArchive
from ..lm.emu3_folder import CODEC, Emu3Folder
from ..lm.emu3_text import Emu3Text
from ..sampling.plan import SamplingConfig
from ..tokenizer.codec_files import SIZES, WEIGHTS, load_tokenizer, tokenizer_config
from ..tokenizer.codecs import without_weights
from ..tokenizer.cosmos_archive import FILES, ConversionReport, convert_cosmos
from ..tokenizer.emu3_weights import emu3_codec_config, published_names
from .pretrained import FORMAT, ModelConfig

# The clips and the sampling of the published code (github.com/nvidia-cosmos/cosmos-predict1).
COSMOS_FPS, COSMOS_HEIGHT, COSMOS_WIDTH = 25.0, 640, 1024
COSMOS_SAMPLING = SamplingConfig(guidance_scale=1.0, top_p=0.8)
# Those of Emu3 (github.com/baaivision/Emu3).
EMU3_FPS, EMU3_SIDE = 8.0, 720
EMU3_SAMPLING = SamplingConfig(guidance_scale=3.0, top_k=2048)
MODEL = ("config.json", "lm.safetensors", WEIGHTS)  # the files of a converted model


@dataclass(frozen=True)
class ModelConversion:
    """What a conversion has written.

    Attributes:
        folder: The checkpoint folder.
        config: Its config.
        tensors: The number of tensors of the language model.
        before: How many of them an interrupted call had written.
        left_out: What was not converted, and need not be.
    """

    folder: Path
    config: ModelConfig
    tensors: int
    before: int
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        lm, before = self.config.lm, f", {self.before} of which were there" if self.before else ""
        size = f"clips of {self.config.width}x{self.config.height}"
        return f"a model of the kind {lm.kind}, {size}, {self.tensors} tensors{before}"


def convert(
    source: Path, target: Path, *, tokenizer: Path | None = None, height: int | None = None, width: int | None = None,
    latent_frames: int | None = None, compression: str | None = None,
) -> ConversionReport | ModelConversion:  # fmt: skip
    """Convert published weights, which are told by the files in their folder.

    Args:
        source: The folder of a model of Cosmos-Predict1 (model.pt, config.json), of Emu3 in the layout of transformers
            (config.json, safetensors, tokenizer.json), or of a Cosmos tokenizer (encoder.jit).
        target: The folder to write, which must be new or empty.
        tokenizer: The folder of the tokenizer of Cosmos-Predict1, as published or converted.
        height, width: The size of a model's clips in pixels; that of the published code by default.
        latent_frames: The latent frames of a clip of an Emu3 model that was trained on clips; 1, for still pictures, by
            default.
        compression: The compression of a tokenizer whose folder's name does not say it; see `convert_cosmos`.

    Raises:
        CheckpointError: A file is missing, damaged, holds code, or has other tensors than its kind.
        ReelmError: An argument does not fit the kind, or the folder cannot be written.
    """
    if (source / FILES[0]).is_file():
        _refuse("a tokenizer", tokenizer=tokenizer, height=height, width=width, latent_frames=latent_frames)
        return convert_cosmos(source, target, compression=compression)
    if not (source / "config.json").is_file():
        raise CheckpointError(f"source: must hold config.json or {FILES[0]}, got neither in {str(source)!r}")
    if str(read_json(source / "config.json").get("model_type")).startswith("emu3"):
        _refuse("Emu3, which has its tokenizer with it", tokenizer=tokenizer, compression=compression)
        return convert_emu3(
            source,
            target,
            height=EMU3_SIDE if height is None else height,
            width=EMU3_SIDE if width is None else width,
            latent_frames=1 if latent_frames is None else latent_frames,
        )
    _refuse("Cosmos-Predict1", latent_frames=latent_frames)
    require(tokenizer is not None, "tokenizer", "must be given for a model: the folder of its tokenizer", None)
    assert tokenizer is not None
    return convert_cosmos_model(
        source, target, tokenizer=tokenizer, height=COSMOS_HEIGHT if height is None else height,
        width=COSMOS_WIDTH if width is None else width, compression=compression,
    )  # fmt: skip


def _refuse(kind: str, **options: object) -> None:
    for name, value in options.items():
        require(value is None, name, f"must not be given for {kind}", value)


def convert_cosmos_model(
    source: Path, target: Path, *, tokenizer: Path, height: int = COSMOS_HEIGHT, width: int = COSMOS_WIDTH,
    compression: str | None = None,
) -> ModelConversion:  # fmt: skip
    """Convert an autoregressive model of Cosmos-Predict1 (4B, 12B, 5B or 13B) and its tokenizer: all, or nothing.

    Args:
        source: The folder with config.json and model.pt (or some, model*.pt, with some of the tensors each).
        target: The folder to write, which must be new or empty.
        tokenizer: The folder of the tokenizer, as published or as `convert_cosmos` wrote it.
        height, width: The size of the model's clips in pixels, multiples of the tokenizer's stride.
        compression: The compression of a published tokenizer whose folder's name does not say it.

    Raises:
        CheckpointError: A file is missing, damaged, holds code, or has other tensors than such a model.
        ReelmError: The size does not fit the tokenizer, or the folder cannot be written.
    """
    with contextlib.closing(CosmosArchive(source)) as archive, resumable_folder(target, MODEL, "target") as folder:
        codec, left_out = _with_tokenizer(tokenizer, folder, compression)
        grid = codec.compression.grid(codec.compression.first, height, width)
        lm = archive.config(rows=grid.h, columns=grid.w)
        if codec.vocab_size != lm.vocab_size:
            raise CheckpointError(f"tokenizer: must have the {lm.vocab_size} ids of the model, got {codec.vocab_size}")
        config = ModelConfig(
            format=FORMAT, fps=COSMOS_FPS, height=height, width=width, tokenizer=codec, lm=lm, sampling=COSMOS_SAMPLING,
            name=target.name,
        )  # fmt: skip
        tensors = archive.tensors(lm)
        before = _write(folder, config, tensors, source, archive.source)
        return ModelConversion(target, config, len(tensors), before, (*archive.left_out, *left_out))


def _write(folder: Path, config: ModelConfig, tensors: list[StreamedTensor], source: Path, files: str) -> int:
    """Write the language model and the config; return how many tensors an interrupted call had written."""
    note(f"reads {sum(tensor.nbytes for tensor in tensors) / 2**30:.3g} GiB of tensors from {source}")
    before = write_tensors(folder / "lm.safetensors", tensors, source=files)
    config.save(folder)
    return before


def convert_emu3(
    source: Path, target: Path, *, height: int = EMU3_SIDE, width: int = EMU3_SIDE, latent_frames: int = 1
) -> ModelConversion:
    """Convert an Emu3 model in the layout of transformers, with its tokenizer: all, or nothing.

    Args:
        source: The folder with config.json, safetensors and tokenizer.json.
        target: The folder to write, which must be new or empty.
        height, width: The size of its pictures or clips in pixels, multiples of the tokenizer's stride.
        latent_frames: The latent frames of a clip; 1 for still pictures.

    Raises:
        CheckpointError: A file is missing or damaged, or has other tensors than such a model.
        ReelmError: The size does not fit the tokenizer, or the folder cannot be written.
    """
    files = Emu3Folder(source)
    with resumable_folder(target, (*MODEL, "text.json"), "target") as folder:
        codec = emu3_codec_config(files.values, pictures=latent_frames == 1)
        grid = codec.compression.grid(codec.compression.first, height, width)
        lm = files.config(rows=grid.h, columns=grid.w, frames=latent_frames)
        if codec.vocab_size != lm.vocab_size:
            raise CheckpointError(f"source: must have {codec.vocab_size} video tokens, got {lm.vocab_size}")
        Emu3Text(files.text, lm)  # refuses what is no tokenizer before anything is written
        config = ModelConfig(
            format=FORMAT, fps=EMU3_FPS, height=height, width=width, tokenizer=codec, lm=lm, sampling=EMU3_SAMPLING,
            name=target.name,
        )  # fmt: skip
        tensors, names = files.tensors(lm), published_names(codec)
        shapes = {name: tuple(x.shape) for name, x in without_weights(codec).state_dict().items()}
        own = PrefixedSource(files.shards, CODEC)
        codec_tensors = stream_tensors(own, shapes, lambda name: (Rows(names[name]),))
        write_tensors(folder / WEIGHTS, codec_tensors, source=files.source)
        atomic_write(folder / "text.json", files.text)
        before = _write(folder, config, tensors, source, files.source)
        return ModelConversion(target, config, len(tensors), before, ())


def _with_tokenizer(
    tokenizer: Path, folder: Path, compression: str | None
) -> tuple[CodecConfig, tuple[str, ...]]:  # fmt: skip
    """Write the weights of a tokenizer to a folder; return its config, and what was left out of published files."""
    weights, left_out = folder / WEIGHTS, tuple[str, ...]()
    if (tokenizer / FILES[0]).is_file():
        converted = folder / "tokenizer"
        shutil.rmtree(converted, ignore_errors=True)
        left_out = convert_cosmos(tokenizer, converted, compression=compression).left_out
        config = tokenizer_config(converted)
        (converted / WEIGHTS).replace(weights)
        shutil.rmtree(converted)
        return config, left_out
    if not (tokenizer / WEIGHTS).is_file():
        raise CheckpointError(f"tokenizer: must be a folder with {FILES[0]} or {SIZES}, got {str(tokenizer)!r}")
    require(compression is None, "compression", "must not be given for a converted tokenizer", compression)
    config = load_tokenizer(tokenizer, device="cpu").config  # refuses what is damaged before it is copied
    shutil.copyfile(tokenizer / WEIGHTS, weights)
    return config, left_out
