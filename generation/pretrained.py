"""Load and save whole checkpoint folders: config.json, tokenizer.safetensors, and the language model's files.

parts = load_pretrained("world", device="auto")
save_pretrained(folder, config, tokenizer, lm)              # weights in float16, or store="int8"
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import torch

from ..core.checkpoint import find_checkpoint, read_json, save_json
from ..core.condition import describe_conditions
from ..core.config import from_dict, to_dict
from ..core.controls import NO_CONTROLLER, Controller
from ..core.device import pick_device
from ..core.errors import CheckpointError, ReelmError, require
from ..core.json_values import Json
from ..core.modes import in_plain_modes
from ..core.plain_values import convert_fields
from ..core.processes import join_processes, own_device
from ..core.protocols import AnyCodec, CodecConfig, LanguageModel, LanguageModelConfig, Precision, Storage
from ..lm.quantization import pick_numerics
from ..lm.registry import load_language_model, read_lm_config, write_lm_config
from ..sampling.plan import ClipPlan, SamplingConfig
from ..tokenizer.codec_files import load_tokenizer, save_codec_weights
from ..tokenizer.codecs import count_parameters, read_codec_config, write_codec_config

FORMAT = 1


class HubOptions(TypedDict, total=False):
    """The options of `load_pretrained` for hub ids."""

    revision: str | None
    cache_dir: str | None
    local_files_only: bool


class NumericsOptions(TypedDict, total=False):
    """The options of `load_pretrained` for the dtype and the precisions of the language model."""

    dtype: str | torch.dtype
    weights: Precision
    cache: Precision


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The contents of config.json: the two networks, the format of their clips, and the default sampling settings.

    Attributes:
        format: The version of the file's format.
        fps: The frames per second.
        height, width: The size of a frame in pixels.
        tokenizer: The config of the tokenizer.
        lm: The config of the language model.
        sampling: The default sampling settings.
        name: The name of the model; empty for that of its folder.
        least_psnr: The PSNR in dB that the tokenizer reaches on pictures like those that it was trained on; None where
            it was not measured.
    """

    format: int
    fps: float
    height: int
    width: int
    tokenizer: CodecConfig
    lm: LanguageModelConfig
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    name: str = ""
    least_psnr: float | None = None

    def __post_init__(self) -> None:
        convert_fields(self)
        require(self.format == FORMAT, "format", f"must be {FORMAT}", self.format)
        require(0 < self.fps <= 1000, "fps", "must be above 0 and at most 1000", self.fps)
        side, video = self.tokenizer.compression, self.lm.layout.video
        same = (side.h * video.shape[0], side.w * video.shape[1]) == (self.height, self.width)
        require(same, "height, width", "must be the language model's rows and columns times the tokenizer's stride",
                (self.height, self.width))  # fmt: skip
        vocab = self.tokenizer.vocab_size
        require(video.vocab_size == vocab, "lm.vocab_size", f"must be the tokenizer's {vocab}", video.vocab_size)
        controller, temporal = controller_of(self.lm), side.t
        same = not controller or controller.pictures == temporal
        require(same, "lm.controller.pictures", f"must be the tokenizer's temporal {temporal}", controller.pictures)
        rule = "must be one whose first latent frame is one frame, where a model is played"
        require(not controller or side.first == 1, "tokenizer", rule, f"{side.first} frames")

    def save(self, folder: Path) -> None:
        """Write config.json to a checkpoint folder, which `read_config` reads."""
        parts = {"lm": write_lm_config(self.lm), "tokenizer": write_codec_config(self.tokenizer)}
        save_json(folder / "config.json", to_dict(self) | parts)


@dataclass(frozen=True)
class Pretrained:
    """The loaded parts of a model.

    Attributes:
        name: The name in config.json; else that of the bundled model, the hub id, or the last part of the folder's
            path.
        tokenizer_id: The tokenizer's `tokens_id`: models with the same one share their tokens.
        lm_id: The id of the language model's weights: models with the same one share their keys and values.
        config: The config of the model.
        tokenizer: The tokenizer.
        lm: The language model.
        random: Whether the weights are the random ones of a preset, so that clips have no meaning.
        origin: The bundled name, the absolute path of the folder or the hub id it was loaded from, and the options for
            hub ids; None for a model that was made in memory. A model is pickled and copied as its origin, and loaded
            from there again.
    """

    name: str
    tokenizer_id: str
    lm_id: str
    config: ModelConfig
    tokenizer: AnyCodec
    lm: LanguageModel
    random: bool = False
    origin: tuple[str, HubOptions] | None = None

    def __reduce__(self) -> tuple[object, ...]:
        rule = "must be loaded from a checkpoint to be pickled or copied; save it with `save_pretrained` first"
        require(self.origin is not None and self.lm.numerics.processes == 1, "model", rule, self.name)
        numerics = self.lm.numerics
        options = {"dtype": numerics.dtype, "weights": numerics.weights, "cache": numerics.cache}
        return _load_again, (self.origin, str(self.lm.device), options, (self.tokenizer_id, self.lm_id))

    def settings(self, sampling: SamplingConfig, plan: ClipPlan, *, detail: bool = False) -> Json:
        """Return what a clip of this model records of its generation, as JSON values.

        `sample` is the index of the clip among the samples of one prompt; `prompts` and `temperatures` are schedules by
        latent frames; `latent_frames` is the number of all latent frames of the plan, of which perhaps not all are
        drawn, or None for a clip without an end; `detail` says that the frames have more detail than the tokens.
        """
        return {
            "model": self.name, "tokenizer": self.tokenizer_id, "lm": self.lm_id, **vars(sampling),
            "negative_prompt": plan.negative_prompt, "sample": plan.key.sample, "latent_frames": plan.latent_frames,
            "prompts": [list(entry) for entry in plan.prompts],
            "temperatures": [list(entry) for entry in plan.temperatures],
            **({"conditions": describe_conditions(plan.conditions)} if plan.conditions else {}),
            **({"detail": True} if detail else {}),
        }  # fmt: skip

    def sizes(self) -> Json:
        """Return the sizes of the networks, the clips, the vocabularies and the window."""
        config, side, layout = self.config, self.tokenizer.compression, self.lm.layout
        return {
            "tokenizer_parameters": count_parameters(config.tokenizer),
            "lm_parameters": self.lm.cost(1, 1).parameters,
            "width": config.width,
            "height": config.height,
            "fps": config.fps,
            "pixels_per_token": f"{side.t}x{side.h}x{side.w}",
            "order": layout.video.order,
            "vocab_size": layout.video.vocab_size,
            "segments": {segment.name: list(segment.shape) for segment in layout.segments},
            "keys": list(controller_of(config.lm).keys),
            "axes": list(controller_of(config.lm).axes),
            "reads": list(self.lm.reads),
            "learned_guidance": self.lm.guidance,
            "window_latent_frames": config.lm.window,
            "window_seconds": config.lm.window * side.t / config.fps,
        }


def controller_of(lm: LanguageModelConfig) -> Controller:
    """Return the keys and axes that a model is played by; an empty controller for a model without any."""
    controller = getattr(lm, "controller", NO_CONTROLLER)
    assert isinstance(controller, Controller)
    return controller


def read_config(folder: Path) -> ModelConfig:
    """Read the config of a checkpoint folder, without its weights.

    Raises:
        CheckpointError: The file is missing, is no JSON, or breaks a rule.
    """
    try:
        values: dict[str, object] = {**read_json(folder / "config.json")}
        for name, read in (("lm", read_lm_config), ("tokenizer", read_codec_config)):
            if name in values:
                values[name] = read(values[name])
        return from_dict(ModelConfig, values, "config.json")
    except CheckpointError:
        raise
    except ReelmError as error:
        raise CheckpointError(f"model: {error}") from error


@in_plain_modes
def load_pretrained(
    name: str | Path,
    *,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    weights: Precision = "full",
    cache: Precision = "full",
    processes: int = 1,
    revision: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
) -> Pretrained:
    """Load a bundled model, a folder, or a hub id; see `VideoGenerator.from_pretrained`.

    Raises:
        CheckpointError: A file is missing, damaged, of another shape, or not safetensors.
        ReelmError: Int8 weights are not supported on this machine or device or in this dtype.
    """
    chosen = pick_device(own_device(device, processes))
    numerics = pick_numerics(dtype, weights, cache, chosen, processes)
    if processes > 1:
        join_processes(processes, chosen)
    hub: HubOptions = {"revision": revision, "cache_dir": cache_dir, "local_files_only": local_files_only}
    folder = find_checkpoint(name, **hub)
    config = read_config(folder)
    lm, lm_id = load_language_model(config.lm, folder, chosen, numerics)
    tokenizer = load_tokenizer(folder, config.tokenizer, device=chosen)
    local = folder == Path(name)
    own_name, origin = (folder.resolve().name, str(folder.resolve())) if local else (str(name), str(name))
    called = config.name or own_name
    return Pretrained(called, tokenizer.tokens_id, lm_id, config, tokenizer, lm, origin=(origin, hub))


def _load_again(
    origin: tuple[str, HubOptions], device: str, numerics: NumericsOptions, ids: tuple[str, str]
) -> Pretrained:
    """Return a model that was pickled or copied; it must still be the one with these ids."""
    (name, hub), (tokenizer_id, lm_id) = origin, ids
    parts = load_pretrained(name, device=device, **numerics, **hub)
    if (parts.tokenizer_id, parts.lm_id) != (tokenizer_id, lm_id):
        raise CheckpointError(f"model: must be the model that was pickled, got other weights in {name!r}")
    return parts


def save_pretrained(
    folder: Path, config: ModelConfig, tokenizer: AnyCodec, lm: LanguageModel, *, store: Storage = "float16"
) -> None:
    """Write the folder that `load_pretrained` reads.

    Args:
        folder: The folder; files in it are replaced.
        config: The config of the model.
        tokenizer: The tokenizer, whose weights are written in float16.
        lm: The language model.
        store: The numbers of the matrices in its file: "float16", or "int8" with a scale for each row, in half the
            bytes. They are floating-point numbers again when they are loaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_codec_weights(tokenizer, folder)
    lm.save(folder, store)
    config.save(folder)
