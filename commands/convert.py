"""`reelm convert`: published weights to checkpoint folders of reelm."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .base import Command, Option


@dataclass(frozen=True, kw_only=True)
class Convert(Command):
    """Convert a published tokenizer, NVIDIA's Cosmos DV4x8x8, DV8x8x8 or DV8x16x16, to a folder of reelm.

    Nothing in the files is run. All is converted, or nothing is written.

    Attributes:
        source: The folder with encoder.jit and decoder.jit.
        target: The folder to write, which must be new or empty.
        compression: The frames x rows x columns of a token, such as 8x16x16; by default that in the name of the folder.
    """

    example = "reelm convert Cosmos-Tokenize1-DV8x16x16-720p cosmos"
    source: Annotated[Path, Option(positional=True)]
    target: Annotated[Path, Option(positional=True)]
    compression: str | None = None

    def run(self) -> int:
        from ..tokenizer.cosmos_archive import convert_cosmos

        report = convert_cosmos(self.source, self.target, compression=self.compression)
        side = report.config.compression
        print(f"wrote {report.folder}: a tokenizer of {side.t}x{side.h}x{side.w}, {report.tensors} tensors")
        print(f"left out: {len(report.left_out)} tables that are computed from the sizes")
        return 0
