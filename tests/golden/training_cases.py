"""Twenty steps of each training at debug size: the losses in metrics.jsonl, and what became of the weights.

losses, weights = CASES["tokenizer"](folder)
"""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from reelm.data.token_shards import write_shard
from reelm.lm.text import TextEncoder, train_text
from reelm.lm.transformer import LMConfig
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.tokenizer.tokenizer_config import TokenizerConfig
from reelm.training.lm_training import LMTraining, train_lm
from reelm.training.ranks import Share
from reelm.training.tokenizer_training import TokenizerTraining, TrainingClips, train_tokenizer
from reelm.training.train_config import TrainConfig

from .formula import formula_clip
from .models import CAPTIONS, GRIDS

STEPS = 20


class Features(nn.Module):
    """A tiny network with the signature of the one that perceptual losses ask."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, img: torch.Tensor, resize_images: bool = True, return_lpips: bool = False):
        return self.conv(img / 255 - 0.5).relu().flatten(1)


def train_config(**changes) -> TrainConfig:
    return TrainConfig(**({"steps": STEPS, "warmup": 3, "report_steps": 1, "learning_rate": 3e-3} | changes))


def codec(kind: str, **options) -> TokenizerTraining:
    quantizer = QuantizerConfig(kind=kind, levels=(5, 5), codebook_size=16)
    model = TokenizerConfig(encoder_width=8, decoder_widths=(8,), decoder_depth=(1,), quantizer=quantizer)
    sizes = {"batch_size": 2, "num_frames": 5, "height": 16, "width": 24, "train": train_config()}
    return TokenizerTraining(**({"model": model, "seed": 3} | sizes | options))


def formula_clips(clips: int = 2) -> TrainingClips:
    def batch(step: int, share: Share) -> torch.Tensor:
        numbers = share.of([*range(clips * step, clips * step + clips)])
        return torch.stack([torch.from_numpy(formula_clip(5, 16, 24, number)) for number in numbers])

    return TrainingClips(batch=batch, held_out=[])


def world_tokenizer(folder: Path) -> Path:
    """The world's clips, as the bundled tokenizer was trained."""
    train_tokenizer(codec("fsq"), folder, device="cpu")
    return folder / "tokenizer.safetensors"


def vq_tokenizer(folder: Path) -> Path:
    """A learned codebook, on clips of one's own."""
    train_tokenizer(codec("vq"), folder, clips=formula_clips(), device="cpu")
    return folder / "tokenizer.safetensors"


def second_stage(folder: Path) -> Path:
    """The decoder alone, with an adversary and a perceptual loss."""
    clips, first = formula_clips(1), codec("fsq", train=train_config(steps=2))
    train_tokenizer(first, folder / "first", clips=clips, device="cpu")
    torch.manual_seed(5)
    torch.jit.script(Features()).save(str(folder / "features.pt"))
    sharper = {"adversarial_weight": 0.5, "perceptual_weight": 0.5, "lpips_weights": folder / "features.pt"}
    recipe = codec("fsq", **sharper)
    train_tokenizer(recipe, folder, clips=clips, decoder_of=folder / "first", device="cpu")
    return folder / "tokenizer.safetensors"


def language_model(folder: Path, order: str, **options) -> Path:
    rows, columns = GRIDS[order]
    drawn, shards = torch.Generator().manual_seed(0), folder / "shards"
    for index, frames in enumerate((3, 5)):
        tokens = torch.randint(25, (12, frames, rows, columns), generator=drawn)
        texts = [[CAPTIONS[clip % 2]] for clip in range(12)]
        shards.mkdir(exist_ok=True)
        write_shard(shards / f"{index}.safetensors", tokens, texts, fps=8)
    model = LMConfig(vocab_size=25, rows=rows, columns=columns, order=order, window=3, prefix=16, width=16, depth=1,
                     heads=2, kv_heads=1, head_dim=8, hidden=16, neighbour_dim=4)  # fmt: skip
    optimizer = options.pop("optimizer", "adamw")
    recipe = LMTraining(model=model, train=train_config(optimizer=optimizer), batch_tokens=200, seed=3)
    train_lm(recipe, shards, TextEncoder(train_text(CAPTIONS)), folder, device="cpu", **options)
    return folder / "lm.safetensors"


CASES = {
    "world tokenizer": world_tokenizer,
    "vq tokenizer": vq_tokenizer,
    "second stage": second_stage,
    "raster language model": lambda folder: language_model(folder, "raster"),
    "coarse language model": lambda folder: language_model(folder, "coarse", optimizer="muon", levels=(5, 5)),
}


def run(name: str, folder: Path) -> tuple[list[float], str]:
    """The loss of each step, and a hash of the weights that came out, by the names that the file gives them."""
    weights = CASES[name](folder)
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    digest = hashlib.sha256()
    for key, tensor in sorted(load_file(weights).items()):
        digest.update(key.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return losses, digest.hexdigest()
