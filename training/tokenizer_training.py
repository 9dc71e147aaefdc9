"""Training of a tokenizer, on the rendered world or on a user's clips, in one stage or two.

    train_tokenizer(TokenizerTraining(), Path("runs/tokenizer"))                        # on the rendered world
    train_tokenizer(recipe, Path("runs/tokenizer"), clips=TrainingClips(batch=..., held_out=...))
    train_tokenizer(recipe, Path("runs/more"), init=Path("runs/tokenizer"))             # from its weights on
    train_tokenizer(recipe, Path("runs/sharper"), decoder_of=Path("runs/tokenizer"))    # only the decoder

The first stage has no discriminator. The second (`second_stage.py`) keeps every token as it is, and may have one.

The loss is a Charbonnier distance (Charbonnier et al. 1994; for pictures, Lai et al. 2017, arXiv 1704.03915) and, for
natural video, a multi-scale structure loss. In the rendered world pixels that move weigh more, since objects cover
little of a picture.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..core.checkpoint import save_json, save_tensors, uninitialised
from ..core.config import to_dict
from ..core.device import pick_device
from ..core.errors import require
from ..core.plain_values import convert_fields
from ..evaluation.lpips import LEAST_SIDE as LPIPS_LEAST_SIDE
from ..evaluation.lpips import load_lpips
from ..evaluation.reconstruction import judge_held_out
from ..tokenizer.codec_files import load_tokenizer
from ..tokenizer.tokenizer_config import TokenizerConfig
from ..tokenizer.video_tokenizer import VideoTokenizer
from ..world.render import render
from ..world.scene import sample_scene
from .discriminator import LEAST_SIDE
from .loop import check_run, train
from .losses import reconstruction_loss, structure_loss
from .ranks import ONE_RANK, WHOLE_BATCH, Ranks, Share
from .second_stage import SecondStage
from .speed import Work
from .state_folders import SavedState, newest_state
from .train_config import TrainConfig
from .validation import BestCheckpoint

# The default weights of moving pixels and of the structure loss.
WORLD_WEIGHTS, NATURAL_WEIGHTS = (4.0, 0.0), (1.0, 0.1)


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining:
    """The recipe of a tokenizer.

    Attributes:
        model: The sizes of the tokenizer.
        train: The optimizer, the length and the checkpoints.
        batch_size: The number of clips in a step.
        num_frames: The number of frames of a clip, 1 + a multiple of `temporal`.
        height: The height of a clip in pixels; a user's clips are cropped to it at random.
        width: The width of a clip in pixels.
        moving_weight: The weight of a pixel that differs from the frame before or after it, where other pixels weigh 1;
            None is 4 for the rendered world and 1 for a user's clips.
        structure_weight: The weight of the multi-scale structure loss, which is added to the Charbonnier distance; None
            is 0 for the rendered world and 0.1 for a user's clips.
        adversarial_weight: The weight of the loss against a discriminator that is trained in the same steps; second
            stage only.
        perceptual_weight: The weight of LPIPS by the network in `lpips_weights`; second stage only.
        lpips_weights: The file of the network for LPIPS (docs/tokenizer.md).
        seed: The seed of the initial weights and of the clips.
    """

    model: TokenizerConfig = field(default_factory=TokenizerConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=5000, learning_rate=1.5e-3))
    batch_size: int = 8
    num_frames: int = 9
    height: int = 64
    width: int = 64
    moving_weight: float | None = None
    structure_weight: float | None = None
    adversarial_weight: float = 0.0
    perceptual_weight: float = 0.0
    lpips_weights: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        convert_fields(self)
        require(self.train.tensor == 1, "train.tensor", "must be 1 for a tokenizer", self.train.tensor)
        require(self.seed >= 0, "seed", "must be at least 0", self.seed)
        require(self.batch_size >= 1, "batch_size", "must be at least 1", self.batch_size)
        moving, structure = self.weights(WORLD_WEIGHTS)
        require(1 <= moving < math.inf, "moving_weight", "must be finite and at least 1", moving)
        require(0 <= structure < math.inf, "structure_weight", "must be finite and at least 0", structure)
        adversarial, perceptual = self.adversarial_weight, self.perceptual_weight
        require(0 <= adversarial < math.inf, "adversarial_weight", "must be finite and at least 0", adversarial)
        size = (self.height, self.width)
        for name, weight, least in (
            ("adversarial", adversarial, LEAST_SIDE),
            ("perceptual", perceptual, LPIPS_LEAST_SIDE),
        ):
            large = not weight or min(size) >= least
            require(large, "height, width", f"must be at least {least} with {name}_weight", size)
        require(0 <= perceptual < math.inf, "perceptual_weight", "must be finite and at least 0", perceptual)
        file = self.lpips_weights
        require(file is not None or not perceptual, "lpips_weights", "must be given with perceptual_weight", file)
        require(not file or perceptual > 0, "perceptual_weight", "must be above 0 with lpips_weights", perceptual)

    def weights(self, default: tuple[float, float]) -> tuple[float, float]:
        """Return the weights of moving pixels and of the structure loss, with defaults for those that are None."""
        moving, structure = self.moving_weight, self.structure_weight
        return default[0] if moving is None else moving, default[1] if structure is None else structure


@dataclass(frozen=True, kw_only=True)
class TrainingClips:
    """A user's clips to train on.

    Attributes:
        batch: The function from a step and a part of its batch to that part (B, T, H, W, 3) uint8.
        name: The function from a step to the name of its batch.
        held_out: The names and frames (T, H, W, 3) uint8 of clips that are in no batch.
    """

    batch: Callable[[int, Share], torch.Tensor]
    name: Callable[[int], str] = "batch {}".format
    held_out: list[tuple[str, torch.Tensor]]


def training_clips(
    recipe: TokenizerTraining, step: int, device: torch.device, share: Share = WHOLE_BATCH
) -> torch.Tensor:
    """Return a part (B, T, H, W, 3) uint8 of the rendered batch of a step, which depends on seed and step alone."""
    first = step * recipe.batch_size
    scenes = share.of([sample_scene(recipe.seed, first + i, split="train") for i in range(recipe.batch_size)])
    # Batches begin at different frames of the first seconds, so that later phases of a motion are seen, too.
    start = (step * 7) % 24
    return render(scenes, recipe.num_frames, height=recipe.height, width=recipe.width, first_frame=start, device=device)


def _world_held_out(recipe: TokenizerTraining) -> list[tuple[str, torch.Tensor]]:
    scenes = [sample_scene(recipe.seed, index, split="held-out") for index in range(8)]
    clips = render(scenes, recipe.num_frames, height=recipe.height, width=recipe.width)
    return [(f"world {index}", clip_THW3) for index, clip_THW3 in enumerate(clips)]


def check_stage(recipe: TokenizerTraining, folder: Path, decoder_of: Path | None, resume: bool) -> None:
    """Check, before any work is done, that the options, the folders and the files fit the stage.

    Raises:
        ReelmError: One of them does not fit.
    """
    if decoder_of is not None:
        same = decoder_of.resolve() == folder.resolve()
        require(not same, "decoder_of", "must not be the folder that is written", str(decoder_of))
    check_run(folder, resume, recipe)
    if decoder_of is None:
        for name in ("adversarial_weight", "perceptual_weight"):
            weight = getattr(recipe, name)
            require(not weight, name, "must be 0 without decoder_of, which is the second stage", weight)
        return
    if recipe.lpips_weights is not None:
        load_lpips(recipe.lpips_weights)


def _load_own(folder: Path, device: torch.device) -> VideoTokenizer:
    model = load_tokenizer(folder, device=device)
    require(isinstance(model, VideoTokenizer), "tokenizer", "must be one that reelm has trained", model.config.kind)
    assert isinstance(model, VideoTokenizer)
    return model


def _trained(source: Path, argument: str, recipe: TokenizerTraining, device: torch.device) -> VideoTokenizer:
    model = _load_own(source, device)
    require(recipe.model == model.config, "model", f"must be the sizes of the tokenizer in {argument}", recipe.model)
    return model


def _first_stage(source: Path, recipe: TokenizerTraining, folder: Path, device: torch.device) -> VideoTokenizer:
    """Load the tokenizer that a second stage starts from, and whose tokens it keeps."""
    model = _trained(source, "decoder_of", recipe, device)
    if newest_state(folder) is not None and (folder / "tokenizer.safetensors").exists():
        same = load_tokenizer(folder, device="cpu").tokens_id == model.tokens_id
        require(same, "decoder_of", "must be the tokenizer that the run began with", str(source))
    return model


def _start(
    recipe: TokenizerTraining, folder: Path, init: Path | None, decoder_of: Path | None, device: torch.device
) -> VideoTokenizer:
    torch.manual_seed(recipe.seed)
    # Made for a second stage as well, so that its discriminator is drawn from the same state of the generator.
    model = VideoTokenizer(recipe.model).to(device)
    if init is not None:
        model.load_state_dict(_trained(init, "init", recipe, device).state_dict())
    return model if decoder_of is None else _first_stage(decoder_of, recipe, folder, device)


def _second_stage(model: VideoTokenizer, recipe: TokenizerTraining) -> SecondStage:
    perceptual, device = None, next(model.parameters()).device
    if recipe.lpips_weights is not None:
        perceptual = load_lpips(recipe.lpips_weights, device=device)
        black = torch.zeros(1, 3, recipe.height, recipe.width, device=device)
        perceptual(black, black)  # refuses an unsuitable network before training starts
    return SecondStage(
        model, adversarial_weight=recipe.adversarial_weight, perceptual_weight=recipe.perceptual_weight,
        perceptual=perceptual,
    )  # fmt: skip


class _Export:
    """Writes the best checkpoint of a run so far as a tokenizer: that with the highest PSNR on held-out clips.

    The last one is the best where no clips are held out, and where a loss trades PSNR for sharper pictures.
    """

    def __init__(
        self, folder: Path, recipe: TokenizerTraining, held_out: list[tuple[str, torch.Tensor]], step: int
    ) -> None:
        """Open the files of a run that begins, or goes on after a step."""
        self._folder, self._config, self._held_out = folder, recipe.model, held_out
        self._by_psnr = not (recipe.adversarial_weight or recipe.perceptual_weight)
        self._checkpoints = BestCheckpoint(folder, "psnr", higher=True, step=step)

    def __call__(self, weights: dict[str, torch.Tensor], step: int, device: torch.device) -> None:
        """Measure a checkpoint with these weights, and write it if it is the best, with its figures and its sheet."""
        # A learned codebook has no codes where all steps were left out so far; the first pass would make some.
        if not (self._held_out and bool(weights.get("quantizer.initialised", torch.ones(1)).all())):
            self._write(weights)
            return
        with uninitialised():
            tokenizer = VideoTokenizer(self._config).to(device).eval()
        tokenizer.load_state_dict(weights)
        sheet = self._folder / "checkpoint.png"
        figures = judge_held_out(tokenizer, self._held_out, sheet)
        psnr = figures["psnr"]
        assert isinstance(psnr, float)
        if self._checkpoints.is_beaten(step, psnr) or not self._by_psnr:
            self._write(weights)
            save_json(self._folder / "held-out.json", {"step": step, "split": "held-out", **figures})
            sheet.replace(self._folder / "reconstructions.png")
        sheet.unlink(missing_ok=True)
        self._checkpoints.add(step, psnr)

    def _write(self, weights: dict[str, torch.Tensor]) -> None:
        save_json(self._folder / "tokenizer.json", to_dict(self._config))
        save_tensors(self._folder / "tokenizer.safetensors", weights)


def _loss(
    model: VideoTokenizer, second: SecondStage | None, batch_BTHW3: torch.Tensor, moving_weight: float,
    structure_weight: float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:  # fmt: skip
    """Return the loss of clips (uint8), and the figures to log."""
    frames = batch_BTHW3.float() / 255
    if second is None:
        reconstruction, tokens, quantizer_loss = model(frames)
    else:
        reconstruction, tokens = second.reconstruct(batch_BTHW3)
    value = reconstruction_loss(frames, reconstruction, moving_weight)
    if structure_weight:
        value = value + structure_weight * structure_loss(frames, reconstruction)
    figures: dict[str, torch.Tensor] = {}
    if second is None:
        value = value + quantizer_loss
    else:
        value, figures = second.add_losses(frames, reconstruction, value)
    error = (frames - reconstruction.detach()).square().mean()
    codes = torch.tensor(tokens.unique().numel())
    return value, {"psnr": -10 * torch.log10(error.clamp(min=1e-10)), "codes": codes, **figures}


def train_tokenizer(
    recipe: TokenizerTraining,
    folder: Path,
    *,
    clips: TrainingClips | None = None,
    init: Path | None = None,
    decoder_of: Path | None = None,
    device: str = "auto",
    resume: bool = False,
    ranks: Ranks = ONE_RANK,
) -> VideoTokenizer:
    """Train a tokenizer and write tokenizer.json and tokenizer.safetensors to the folder.

    Every checkpoint also writes loss.png and is measured on held-out clips (held-out.jsonl and .png, their PSNR). The
    tokenizer is that of the best one so far, or of the last one where a loss trades PSNR for sharper pictures;
    reconstructions.png (rows of truth, reconstruction and difference) and held-out.json (PSNR and the use of the
    codebook) are of the same.

    Args:
        recipe: The model and the options of the training.
        folder: The folder of the run.
        clips: The clips to train on; None renders the world.
        init: The folder of a trained tokenizer of the same sizes, whose weights are the start of the first stage.
        decoder_of: The folder of the tokenizer whose decoder alone is trained, which is the second stage.
        device: The device: auto, cpu or cuda[:n].
        resume: Whether the run in the folder is continued.
        ranks: The processes of the training, each of which gets the tokenizer.

    Raises:
        ReelmError: A size does not fit, or a batch cannot be divided among the processes; a second stage is given
            several; `init` is given with `decoder_of`, or to a run that goes on; the first stage is
            given a loss of the second; the sizes are not those of `init` or `decoder_of`; or the tokens of a second
            stage that is resumed are not those of `decoder_of`.
    """
    torch_device = pick_device(device)
    check_stage(recipe, folder, decoder_of, resume)
    alone = init is None or (decoder_of is None and not resume)
    require(alone, "init", "must not be given with decoder_of or resume, which have weights of their own", str(init))
    ranks.check_batch(recipe.batch_size, recipe.train.parts, "batch_size")
    model = _start(recipe, folder, init, decoder_of, torch_device)
    model.grid(recipe.num_frames, recipe.height, recipe.width)
    second = None if decoder_of is None else _second_stage(model, recipe)
    moving_weight, structure_weight = recipe.weights(WORLD_WEIGHTS if clips is None else NATURAL_WEIGHTS)

    def loss(_: torch.nn.Module, step: int, share: Share) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if clips is None:
            batch = training_clips(recipe, step, torch_device, share)
        else:
            batch = clips.batch(step, share).to(torch_device)
        return _loss(model, second, batch, moving_weight, structure_weight)

    before = newest_state(folder) if resume else None
    held_out = _world_held_out(recipe) if clips is None else clips.held_out
    write = _Export(folder, recipe, held_out, 0 if before is None else before.values().step) if ranks.first else None

    def export(saved: SavedState, _: bool) -> None:
        weights = saved.weights()
        if second is not None:
            weights = model.state_dict() | {f"decoder.{name}": tensor for name, tensor in weights.items()}
        assert write is not None  # only the first process exports
        write(weights, saved.values().step, torch_device)

    trained, auxiliary = (model, None) if second is None else (model.decoder, second.discriminator)
    train(
        trained,
        loss,
        recipe.train,
        folder,
        recipe=recipe,
        resume=resume,
        auxiliary=auxiliary,
        on_checkpoint=export,
        batch_name="the scenes of step {}".format if clips is None else clips.name,
        batch_option=("batch_size", recipe.batch_size),
        work=Work("frames", lambda step: recipe.batch_size * recipe.num_frames),
        ranks=ranks,
    )
    return _load_own(folder, torch_device)
