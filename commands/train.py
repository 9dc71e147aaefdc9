"""The commands that make the parts of a language model's training: train tokenizer, render, train text."""

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from .base import Command, RunCommand, config_options
from .data import summary
from .parser import Option

if TYPE_CHECKING:
    from ..training.run_reports import HeldOutFigures


def _tokenizer_options() -> type:
    from ..training.tokenizer_training import TokenizerTraining

    return config_options(TokenizerTraining)


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer(RunCommand):
    """Train a tokenizer on your own clips, or on rendered ones.

    Attributes:
        data: The folder of clips that reelm prepare made, or of any clips; without it clips are rendered.
        fps: The frames per second of all clips, if they are not prepared; the median of their own rates unless given.
        preset: The sizes of the model, in place of the options of --model: tiny, small or base (1, 8, 100 million
            parameters). It is small if --data is given and no option of --model.
        compression: The pixels per token of the preset, frames x rows x columns; 4x8x8 unless given.
        init: The tokenizer whose weights are the start, with its sizes (a bundled name or a folder); the weights are
            random unless given.
        decoder_of: The folder of a trained tokenizer whose decoder alone is trained further, with the same sizes; its
            tokens do not change.
    """

    example = "reelm train tokenizer --data my_clips --preset small --compression 4x8x8 --out runs/tokenizer"
    data: Path | None = None
    fps: float | None = None
    preset: Literal["tiny", "small", "base"] | None = None
    compression: Literal["4x8x8", "8x8x8", "4x16x16", "8x16x16"] | None = None
    init: str | None = None
    decoder_of: Path | None = None
    recipe: Annotated[Any, Option(group=_tokenizer_options, prefixed=False)]

    def recorded(self) -> object | None:
        """Return the options of the run that goes on."""
        from ..training.run_options import TokenizerRun, recorded_options

        return recorded_options(self.out, TokenizerRun) if self.resume else None

    def train(self) -> int:
        """Train a tokenizer, and print what became of it."""
        from ..core.config import from_dict
        from ..core.free_names import free_path
        from ..core.memory import keep_freed_memory
        from ..training.recipes import train_video_tokenizer
        from ..training.tokenizer_training import TokenizerTraining

        keep_freed_memory()
        report = train_video_tokenizer(
            self.out, data=self.data, fps=self.fps, preset=self.preset, compression=self.compression,
            init=self.init, decoder_of=self.decoder_of, device=self.device, resume=self.resume,
            recipe=from_dict(TokenizerTraining, dataclasses.asdict(self.recipe), "options"),
        )  # fmt: skip
        if report.prepared is not None:
            print(summary(report.prepared))
        code = self.print_progress("tokenizer.json and tokenizer.safetensors", report.progress)
        if report.held_out is not None:
            print(_held_out(report.held_out))
        if self.data is not None and report.progress.finished:
            places = {"--data": self.data, "--tokenizer": self.out, "--out": free_path(self.out.with_name("lm"))}
            words = [word for name, place in places.items() for word in (name, str(place))]
            print(f"next: reelm train lm {shlex.join(words)}")
        return code


def _held_out(figures: "HeldOutFigures") -> str:
    """Format the PSNR of the held-out clips and the use of the codebook as text."""
    lines = [f"  {clip.name}: {clip.psnr:.2f} dB" for clip in figures.clips]
    clip, count = figures.clips[0], len(figures.clips)
    first = (
        f"held out, step {figures.step}: {figures.psnr:.2f} dB mean PSNR of {count} clips of "
        f"{clip.width}x{clip.height}, {100 * figures.codebook_use:.1f}% of the codes in {figures.tokens} "
        f"tokens (perplexity {figures.perplexity:.0f}); see reconstructions.png"
    )
    return "\n".join([first, *lines])


@dataclass(frozen=True, kw_only=True)
class Render(Command):
    """Render captioned clips of the synthetic world and encode them to token shards for a language model.

    Attributes:
        tokenizer: The folder of a trained tokenizer.
        out: The folder of the token shards; existing ones are kept.
        clips: The number of clips.
        num_frames: The number of frames of a clip, 1 + a multiple of the tokenizer's `temporal`.
        seed: The seed of the clips.
        height: The height of a clip in pixels.
        width: The width of a clip in pixels.
        device: The device to compute on: auto, cpu or cuda[:n].
    """

    example = "reelm render --tokenizer runs/tokenizer --out runs/tokens --clips 40000 --num-frames 17 --seed 1"
    tokenizer: Path
    out: Path
    clips: int
    num_frames: int = 17
    seed: int = 1
    height: int = 64
    width: int = 64
    device: str = "auto"

    def run(self) -> int:
        from ..data.token_recipes import render_tokens

        report = render_tokens(
            self.tokenizer, self.out, self.clips, num_frames=self.num_frames, seed=self.seed, height=self.height,
            width=self.width, device=self.device,
        )  # fmt: skip
        print(f"wrote {report.folder}: {report.clips} clips of {report.num_frames} frames")
        return 0


@dataclass(frozen=True, kw_only=True)
class TrainText(Command):
    """Train the text model on captions.

    Attributes:
        out: The file to write.
        data: The folder of token shards whose captions are used.
        captions: The text file with one caption per line, in place of --data.
        vocab_size: The most text ids that the model may have.
        model_type: The type of the text model: word knows whole words only; unigram and bpe compose new words from
            pieces.
    """

    example = "reelm train text --data runs/tokens --out runs/text.model"
    out: Path
    data: Path | None = None
    captions: Path | None = None
    vocab_size: int = 256
    model_type: Literal["word", "unigram", "bpe"] = "word"

    def run(self) -> int:
        from ..training.text_training import train_text_model

        report = train_text_model(
            self.out, data=self.data, captions=self.captions, vocab_size=self.vocab_size, model_type=self.model_type
        )
        print(f"wrote {report.path}: {report.vocab_size} text ids from {report.captions} captions")
        return 0
