"""`reelm convert`: published weights to checkpoint folders of reelm."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .base import Command, Option


@dataclass(frozen=True, kw_only=True)
class Convert(Command):
    """Convert published weights: a model of NVIDIA's Cosmos-Predict1, a discrete Cosmos tokenizer, or Emu3.

    Nothing in the files is run. All is converted, or nothing is written; a model that was interrupted goes on.

    Attributes:
        source: The folder with model.pt and config.json, with encoder.jit and decoder.jit, or in transformers' layout.
        target: The folder to write, which must be new or empty.
        tokenizer: The folder of the tokenizer of Cosmos-Predict1, as published or converted.
        height: The height of a model's clips in pixels.
        width: The width of a model's clips in pixels.
        latent_frames: The latent frames of a clip of an Emu3 model that was trained on clips; 1 for still pictures.
        compression: The frames x rows x columns of a token, such as 8x16x16; by default that in the tokenizer's name.
    """

    example = "reelm convert Cosmos-Predict1-4B cosmos-4b --tokenizer Cosmos-Tokenize1-DV8x16x16-720p"
    source: Annotated[Path, Option(positional=True)]
    target: Annotated[Path, Option(positional=True)]
    tokenizer: Path | None = None
    height: int | None = None
    width: int | None = None
    latent_frames: int | None = None
    compression: str | None = None

    def run(self) -> int:
        from ..generation.model_conversion import convert

        report = convert(
            self.source, self.target, tokenizer=self.tokenizer, height=self.height, width=self.width,
            latent_frames=self.latent_frames, compression=self.compression,
        )  # fmt: skip
        print(f"wrote {report.folder}: {report}")
        for each in report.left_out:
            print(f"left out: {each}")
        return 0
