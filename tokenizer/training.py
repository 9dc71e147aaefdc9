"""Training a tokenizer on the rendered world: `reelm train tokenizer --out runs/tokenizer`.

Loss: a Charbonnier distance in which pixels that move weigh more, since objects cover little of a picture.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..core.checkpoint import save_json, save_tensors
from ..core.config import to_dict
from ..core.contact_sheet import write_contact_sheet
from ..core.device import pick_device
from ..core.errors import require
from ..core.training import TrainConfig, TrainState, train
from ..world.render import render
from ..world.scene import sample_scene
from .model import TokenizerConfig, VideoTokenizer


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining:
    """The recipe of a tokenizer.

    Attributes:
        model: its sizes.
        train: optimizer, length and checkpoints.
        batch_size: clips in a step.
        num_frames: frames of a clip, 1 + a multiple of `temporal`.
        height: of a clip in pixels.
        width: of a clip in pixels.
        moving_weight: how much more a pixel weighs that differs from the frame before or after it.
        seed: of the weights and of the clips.
    """

    model: TokenizerConfig = field(default_factory=TokenizerConfig)
    train: TrainConfig = field(default_factory=lambda: TrainConfig(steps=5000, learning_rate=1.5e-3))
    batch_size: int = 8
    num_frames: int = 9
    height: int = 64
    width: int = 64
    moving_weight: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", "must be at least 0", self.seed)
        require(self.batch_size >= 1, "batch_size", "must be at least 1", self.batch_size)
        require(self.moving_weight >= 1, "moving_weight", "must be at least 1", self.moving_weight)


def training_clips(recipe: TokenizerTraining, step: int, device: torch.device) -> torch.Tensor:
    """The batch (B, T, H, W, 3) uint8 of a step: it follows from (seed, step) alone."""
    first = step * recipe.batch_size
    scenes = [sample_scene(recipe.seed, first + i, split="train") for i in range(recipe.batch_size)]
    # A batch begins at any moment of its clips' first seconds, so that later phases are seen too.
    start = (step * 7) % 24
    return render(scenes, recipe.num_frames, height=recipe.height, width=recipe.width, first_frame=start, device=device)


def moving_pixels(frames_BTHWC: torch.Tensor, threshold: float = 0.03) -> torch.Tensor:
    """(B, T, H, W, 1) of 0 and 1: where a frame in [0, 1] differs from the one before or after it."""
    change = (frames_BTHWC[:, 1:] - frames_BTHWC[:, :-1]).abs().amax(-1, keepdim=True) > threshold
    none = torch.zeros_like(change[:, :1])
    return (torch.cat([none, change], 1) | torch.cat([change, none], 1)).float()


def reconstruction_loss(
    frames_BTHWC: torch.Tensor, reconstruction_BTHWC: torch.Tensor, moving_weight: float
) -> torch.Tensor:
    """Weighted Charbonnier distance sqrt(d^2 + e^2) - e with e = 0.05: quadratic near zero, linear far away."""
    distance = torch.sqrt((frames_BTHWC - reconstruction_BTHWC).square() + 0.05**2) - 0.05
    weight = 1 + (moving_weight - 1) * moving_pixels(frames_BTHWC)
    return (distance * weight).mean() / weight.mean()


def train_tokenizer(
    recipe: TokenizerTraining, folder: Path, *, device: str = "auto", resume: bool = False
) -> VideoTokenizer:
    """Train from nothing, or go on with `resume`; the folder ends with tokenizer.json and tokenizer.safetensors.

    At every checkpoint it also gets loss.png and reconstructions.png (each clip, and below it its reconstruction).
    """
    place = pick_device(device)
    torch.manual_seed(recipe.seed)
    model = VideoTokenizer(recipe.model).to(place)
    model.grid(recipe.num_frames, recipe.height, recipe.width)

    def loss(model: torch.nn.Module, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        frames = training_clips(recipe, step, place).float() / 255
        reconstruction, _, auxiliary = model(frames)
        value = reconstruction_loss(frames, reconstruction, recipe.moving_weight)
        error = (frames - reconstruction.detach()).square().mean()
        return value + auxiliary, {"psnr": -10 * torch.log10(error)}

    def export(state: TrainState) -> None:
        save_json(folder / "tokenizer.json", to_dict(recipe.model))
        save_tensors(folder / "tokenizer.safetensors", state.average_model())
        write_reconstructions(state, recipe, folder / "reconstructions.png")

    state = train(model, loss, recipe.train, folder, resume=resume, on_checkpoint=export)
    model.load_state_dict(state.average_model())
    return model.eval()


@torch.no_grad()
def write_reconstructions(state: TrainState, recipe: TokenizerTraining, path: Path) -> None:
    """Held-out clips and their reconstructions by the averaged weights, as a contact sheet."""
    model = VideoTokenizer(recipe.model)
    model.load_state_dict(state.average_model())
    scenes = [sample_scene(recipe.seed, index, split="held-out") for index in range(8)]
    clips = render(scenes, recipe.num_frames, height=recipe.height, width=recipe.width)
    shown = (model.eval().decode(model.encode(clips)).clamp(0, 1) * 255).round().to(torch.uint8)
    write_contact_sheet(path, torch.stack([clips, shown], 1).flatten(0, 1))
