"""A checkpoint folder as a whole: config.json, tokenizer.safetensors, and the files of its language model.

parts = load_pretrained("world", device="auto")
save_pretrained(folder, config, tokenizer, lm)              # weights in float16
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..core.checkpoint import find_checkpoint, load_weights, read_json, save_json, save_tensors, uninitialised
from ..core.condition import describe_conditions
from ..core.config import from_dict, to_dict
from ..core.device import pick_device
from ..core.errors import CheckpointError, ReelmError, require
from ..core.protocols import LanguageModel, LanguageModelConfig, Precision
from ..lm.quantization import pick_numerics
from ..lm.registry import load_language_model, read_lm_config, write_lm_config
from ..sampling.plan import ClipPlan
from ..sampling.rules import SamplingConfig
from ..tokenizer.tokenizer_config import TokenizerConfig
from ..tokenizer.video_tokenizer import VideoTokenizer

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
    lm: LanguageModelConfig
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        require(self.format == FORMAT, "format", f"must be {FORMAT}", self.format)
        require(0 < self.fps <= 1000, "fps", "must be above 0 and at most 1000", self.fps)
        side, video = self.tokenizer.spatial, self.lm.layout.video
        same = tuple(side * count for count in video.shape) == (self.height, self.width)
        require(same, "height, width", "must be the language model's rows and columns times the tokenizer's stride",
                (self.height, self.width))  # fmt: skip
        vocab = self.tokenizer.quantizer.vocab_size
        require(video.vocab_size == vocab, "lm.vocab_size", f"must be the tokenizer's {vocab}", video.vocab_size)


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
    lm: LanguageModel
    random: bool = False

    def settings(self, sampling: SamplingConfig, plan: ClipPlan) -> dict[str, Any]:
        """What a clip of this model records of how it was made, as JSON values.

        `sample` is its number among those of one prompt; `prompts` and `temperatures` are by latent frames.
        """
        return {
            "model": self.name, "tokenizer": self.tokenizer_id, "lm": self.lm_id, **vars(sampling),
            "negative_prompt": plan.negative_prompt, "sample": plan.key.sample,
            "prompts": [list(entry) for entry in plan.prompts],
            "temperatures": [list(entry) for entry in plan.temperatures],
            **({"conditions": describe_conditions(plan.conditions)} if plan.conditions else {}),
        }  # fmt: skip

    def sizes(self) -> dict[str, Any]:
        """How large the networks, the clips, the vocabularies and the window are."""
        config, side, layout = self.config, self.tokenizer.compression, self.lm.layout
        return {
            "tokenizer_parameters": sum(p.numel() for p in self.tokenizer.parameters()),
            "lm_parameters": self.lm.cost(1, 1).parameters,
            "width": config.width,
            "height": config.height,
            "fps": config.fps,
            "pixels_per_token": f"{side.t}x{side.h}x{side.w}",
            "order": layout.video.order,
            "vocab_size": layout.video.vocab_size,
            "segments": {segment.name: list(segment.shape) for segment in layout.segments},
            "reads": list(self.lm.reads),
            "window_latent_frames": config.lm.window,
            "window_seconds": config.lm.window * config.tokenizer.temporal / config.fps,
        }


def read_config(folder: Path) -> ModelConfig:
    """The config of a checkpoint folder, without its weights.

    Raises:
        CheckpointError: it is missing, no JSON, or breaks a rule.
    """
    try:
        values = read_json(folder / "config.json")
        if "lm" in values:
            values = values | {"lm": read_lm_config(values["lm"])}
        return from_dict(ModelConfig, values, "config.json")
    except CheckpointError:
        raise
    except ReelmError as error:
        raise CheckpointError(f"model: {error}") from error


def load_pretrained(
    name: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    weights: Precision = "full",
    cache: Precision = "full",
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
    numerics = pick_numerics(dtype, weights, cache, place)
    folder = find_checkpoint(name, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
    config = read_config(folder)
    lm, lm_id = load_language_model(config.lm, folder, place, numerics)
    with uninitialised():
        tokenizer = VideoTokenizer(config.tokenizer)
    load_weights(tokenizer, folder / "tokenizer.safetensors")
    # The tokenizer stays in float32: it is a small part of the time, and its tokens must not depend on the device.
    tokenizer.to(place).eval().requires_grad_(False)
    shown = folder.resolve().name if folder == Path(name) else str(name)
    return Pretrained(shown, tokenizer.tokens_id, lm_id, config, tokenizer, lm)


def save_pretrained(folder: Path, config: ModelConfig, tokenizer: VideoTokenizer, lm: LanguageModel) -> None:
    """Write the folder that `load_pretrained` reads, weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in tokenizer.state_dict().items()}
    save_tensors(folder / "tokenizer.safetensors", tensors)
    lm.save(folder)
    save_json(folder / "config.json", to_dict(config) | {"lm": write_lm_config(config.lm)})
