"""The command that measures a tokenizer's speed: bench tokenizer."""

from dataclasses import dataclass
from pathlib import Path

from ..core.errors import require
from .base import Command, strict_json


@dataclass(frozen=True, kw_only=True)
class BenchTokenizer(Command):
    """Measure a tokenizer's speed beside a network of the shape of NVIDIA's Cosmos; the last line is one JSON document.

    Attributes:
        preset: random weights of this size: tiny, small or base.
        compression: frames x rows x columns of a token of the preset: 4x8x8, 8x8x8, 4x16x16 or 8x16x16.
        tokenizer: the folder of a tokenizer's training, in place of a preset.
        num_frames: of a clip, 1 + a multiple of a token's frames.
        height: rows of pixels.
        width: columns of pixels.
        batch: clips at once.
        repeats: counted rounds, in which the networks take turns; figures are their medians.
        device: auto, cpu or cuda[:n].
        dtype: auto, float32, bfloat16 or float16, of both networks.
        peers: give the network of the shape of Cosmos a row too.
        check: a tiny clip and one round: whether it runs, not how fast.
        json: print one JSON document and nothing else.
    """

    example = "reelm bench tokenizer --preset base --compression 4x8x8"
    preset: str = "base"
    compression: str = "4x8x8"
    tokenizer: Path | None = None
    num_frames: int = 17
    height: int = 128
    width: int = 128
    batch: int = 1
    repeats: int = 5
    device: str = "auto"
    dtype: str = "auto"
    peers: bool = True
    check: bool = False
    json: bool = False

    def run(self) -> int:
        from ..bench.codec import benchmark_tokenizer, random_tokenizer
        from ..core.device import pick_dtype
        from ..tokenizer.video_tokenizer import load_tokenizer

        if self.tokenizer is None:
            tokenizer = random_tokenizer(self.preset, self.compression, device=self.device, dtype=self.dtype)
        else:
            given = (self.preset, self.compression)
            unset = given == (BenchTokenizer.preset, BenchTokenizer.compression)
            require(unset, "preset, compression", "must not be given with a tokenizer", given)
            tokenizer = load_tokenizer(self.tokenizer, device=self.device)
            tokenizer.to(pick_dtype(self.dtype, next(tokenizer.parameters()).device))
        report = benchmark_tokenizer(
            tokenizer, name=str(self.tokenizer or self.preset), num_frames=self.num_frames, height=self.height,
            width=self.width, batch=self.batch, repeats=self.repeats, peers=self.peers, check=self.check,
        )  # fmt: skip
        print(*([] if self.json else [report]), strict_json(report), sep="\n")
        return 0
