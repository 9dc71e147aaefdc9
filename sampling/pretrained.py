"""A checkpoint folder as a whole: config.json, tokenizer.safetensors, lm.safetensors, text.model.

parts = load_pretrained("world", device="auto")
save_pretrained(folder, config, tokenizer, lm, text)        # weights in float16
"""

import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..core.checkpoint import find_checkpoint, load_weights, read_json, save_json, save_tensors, uninitialised
from ..core.config import from_dict, to_dict
from ..core.device import pick_device, pick_dtype
from ..core.errors import CheckpointError, ReelmError, require
from ..core.files import atomic_write
from ..lm.int8 import Kind, check_kinds, check_machine, quantise_linears, quantise_weight
from ..lm.packed import pack_linears, pack_weight
from ..lm.text import TextEncoder
from ..lm.transformer import LMConfig, VideoTransformer
from ..tokenizer.config import TokenizerConfig
from ..tokenizer.model import VideoTokenizer
from .plan import ClipPlan
from .rules import SamplingConfig

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """config.json: the two networks, the clips they were made for, and how they sample by default.

    Attributes:
        format: version of this layout.
        fps: frames a second.
        height, width: of a frame in pixels.
        tokenizer: sizes of the tokenizer.
        lm: sizes of the language model.
        sampling: default settings.
    """

    format: int
    fps: float
    height: int
    width: int
    tokenizer: TokenizerConfig
    lm: LMConfig
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        require(self.format == FORMAT, "format", f"must be {FORMAT}", self.format)
        require(0 < self.fps <= 1000, "fps", "must be above 0 and at most 1000", self.fps)
        side = self.tokenizer.spatial
        same = (self.lm.rows * side, self.lm.columns * side) == (self.height, self.width)
        require(same, "height, width", "must be the language model's rows and columns times the tokenizer's stride",
                (self.height, self.width))  # fmt: skip
        vocab = self.tokenizer.quantizer.vocab_size
        require(self.lm.vocab_size == vocab, "lm.vocab_size", f"must be the tokenizer's {vocab}", self.lm.vocab_size)


@dataclass(frozen=True)
class Pretrained:
    """The loaded parts of a model.

    Attributes:
        name: of the bundled model, the hub id, or the last part of the folder's path.
        tokenizer_id: the tokenizer's `tokens_id`: clips with the same one can exchange tokens.
        lm_id: names the language model's weights: clips with the same one can exchange keys and values.
        random: whether the weights are random ones, of a preset: what it makes means nothing.
    """

    name: str
    tokenizer_id: str
    lm_id: str
    config: ModelConfig
    tokenizer: VideoTokenizer
    lm: VideoTransformer
    text: TextEncoder
    random: bool = False

    @property
    def kinds(self) -> dict[str, Kind]:
        """Whether the language model's `weights` and `cache` are "full" or "int8"."""
        return {"weights": self.lm.weights_kind, "cache": self.lm.cache_kind}

    def settings(self, sampling: SamplingConfig, plan: ClipPlan) -> dict[str, Any]:
        """What a clip of this model says of how it was made, as JSON values.

        `sample` is its number among those of one prompt; `prompts` and `temperatures` are by latent frames.
        """
        return {
            "model": self.name, "tokenizer": self.tokenizer_id, "lm": self.lm_id, **to_dict(sampling),
            "negative_prompt": plan.negative_prompt, "sample": plan.key.sample,
            "prompts": [list(entry) for entry in plan.prompts],
            "temperatures": [list(entry) for entry in plan.temperatures],
        }  # fmt: skip

    def sizes(self) -> dict[str, Any]:
        """How large the networks, the clips, the vocabularies and the window are."""
        config, side = self.config, self.tokenizer.compression
        return {
            "tokenizer_parameters": sum(p.numel() for p in self.tokenizer.parameters()),
            "lm_parameters": sum(p.numel() for p in self.lm.parameters()),
            "width": config.width,
            "height": config.height,
            "fps": config.fps,
            "pixels_per_token": f"{side.t}x{side.h}x{side.w}",
            "order": config.lm.order,
            "vocab_size": config.lm.vocab_size,
            "text_vocab_size": self.text.vocab_size,
            "window_latent_frames": config.lm.window,
            "window_seconds": config.lm.window * config.tokenizer.temporal / config.fps,
        }


def read_config(folder: Path) -> ModelConfig:
    """The config of a checkpoint folder, without its weights.

    Raises:
        CheckpointError: it is missing, no JSON, or breaks a rule.
    """
    try:
        return from_dict(ModelConfig, read_json(folder / "config.json"), "config.json")
    except CheckpointError:
        raise
    except ReelmError as error:
        raise CheckpointError(f"model: {error}") from error


def load_pretrained(
    name: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    weights: Kind = "full",
    cache: Kind = "full",
    revision: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
) -> Pretrained:
    """Load a bundled model, a folder, or a hub id; see `VideoGenerator.from_pretrained`.

    Raises:
        CheckpointError: a file is missing, damaged, of another shape, or not safetensors.
        ReelmError: there are no int8 weights on this machine, device or in this dtype.
    """
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    check_kinds(weights, cache, place.type, kind)
    check_machine(weights, place.type)
    folder = find_checkpoint(name, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
    config = read_config(folder)
    try:
        text = TextEncoder((folder / "text.model").read_bytes())
    except OSError as error:
        raise CheckpointError(f"model: text.model must be readable in {str(folder)!r}: {error}") from error
    if text.vocab_size > config.lm.text_vocab_size:
        raise CheckpointError(
            f"model: text.model must have at most {config.lm.text_vocab_size} ids, got {text.vocab_size}"
        )
    with uninitialised():
        tokenizer, lm = VideoTokenizer(config.tokenizer), VideoTransformer(config.lm)
    # The tokenizer stays in float32: it is a small part of the time, and its tokens must not depend on the device.
    load_weights(tokenizer, folder / "tokenizer.safetensors")
    tokenizer.to(place).eval().requires_grad_(False)
    lm.eval().requires_grad_(False)
    # The hash of a large file takes a third of the time of all else: a second core does it, where there is one.
    with ThreadPoolExecutor(1, "hash") as pool:
        lm_id = pool.submit(_file_id, folder / "lm.safetensors")
        replace = functools.partial(quantise_weight if weights == "int8" else pack_weight, lm)
        load_weights(lm, folder / "lm.safetensors", device=place, dtype=kind, replace=replace)
    lm.to(place)
    lm.weights_kind, lm.cache_kind = weights, cache
    shown = folder.resolve().name if folder == Path(name) else str(name)
    return Pretrained(shown, tokenizer.tokens_id, lm_id.result(), config, tokenizer, lm, text)


def _file_id(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def make_ready(lm: VideoTransformer, weights: Kind, cache: Kind) -> None:
    """Give a language model that stays as it is the linear layers and the kind of cache that it is to sample with."""
    if weights == "int8":
        quantise_linears(lm)
    else:
        pack_linears(lm)
    lm.weights_kind, lm.cache_kind = weights, cache


def save_pretrained(
    folder: Path, config: ModelConfig, tokenizer: VideoTokenizer, lm: VideoTransformer, text: TextEncoder
) -> None:
    """Write the folder that `load_pretrained` reads, weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in (("tokenizer", tokenizer), ("lm", lm)):
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in module.state_dict().items()}
        save_tensors(folder / f"{name}.safetensors", tensors)
    atomic_write(folder / "text.model", text.model)
    save_json(folder / "config.json", to_dict(config))
