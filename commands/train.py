"""The commands that make what a language model is trained with: train tokenizer, render, train text."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..core.errors import require
from .base import Command, RunCommand, config_options
from .data import prepared


def _tokenizer_options() -> type:
    from ..training.tokenizer_training import TokenizerTraining

    return config_options(TokenizerTraining)


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer(RunCommand):
    """Train a tokenizer on clips of one's own, or on rendered ones.

    Attributes:
        data: a folder of clips that reelm prepare made, or of any clips; without it clips are rendered.
        preset: take the sizes of the model from here, not from --model: tiny, small or base (1, 8, 100 million
            parameters). With --data and no --model option it is small.
        compression: of the preset: frames x rows x columns of a token, 4x8x8 if nothing is said.
        decoder_of: train only the decoder of the tokenizer in this folder, which has its sizes: all its tokens stay
            what they are.
    """

    example = "reelm train tokenizer --data my_clips --preset small --compression 4x8x8 --out runs/tokenizer"
    data: Path | None = None
    preset: Literal["tiny", "small", "base"] | None = None
    compression: Literal["4x8x8", "8x8x8", "4x16x16", "8x16x16"] | None = None
    decoder_of: Path | None = None
    recipe: Annotated[Any, tyro.conf.arg(name="", constructor_factory=_tokenizer_options)]

    def run(self) -> int:
        from ..core.checkpoint import read_json
        from ..core.config import from_dict
        from ..data.clip_shards import ClipShards
        from ..data.crops import CropLoader, held_out_clips
        from ..training.tokenizer_training import TokenizerTraining, TrainingClips, check_stage, train_tokenizer

        recipe = from_dict(TokenizerTraining, self._options(), "options")
        check_stage(recipe, self.out, self.decoder_of, self.resume)
        clips, crops = None, None
        if self.data is not None:
            shards = prepared(self.data, self.out)
            crops = CropLoader(
                ClipShards(shards), recipe.batch_size, recipe.num_frames,
                height=recipe.height, width=recipe.width, seed=recipe.seed,
            )  # fmt: skip
            ends = held_out_clips(ClipShards(shards, "held-out"), recipe.model.temporal)
            clips = TrainingClips(batch=crops.batch, held_out=ends)
        train_tokenizer(
            recipe, self.out, clips=clips, decoder_of=self.decoder_of, device=self.device, resume=self.resume
        )
        if crops is not None:
            crops.close()
        code = self.report("tokenizer.json and tokenizer.safetensors")
        if (self.out / "held-out.json").exists():
            print(_held_out(read_json(self.out / "held-out.json")))
        return code

    def _options(self) -> dict[str, Any]:
        """The recipe's options, with the model that the preset stands for, or that `decoder_of` has."""
        from ..core.checkpoint import read_json
        from ..core.config import differences, to_dict
        from ..tokenizer.tokenizer_config import TokenizerConfig, tokenizer_preset

        options = dataclasses.asdict(self.recipe)
        if self.decoder_of is not None:
            sizes = {"preset": self.preset, "compression": self.compression}
            sizes |= {
                name: value
                for name, (value, _) in differences(options["model"], to_dict(TokenizerConfig()), "model.").items()
            }
            for name, value in sizes.items():
                require(value is None, name, "must not be given together with decoder_of, which has its sizes", value)
            return options | {"model": read_json(self.decoder_of / "tokenizer.json")}
        changed = options["model"] != to_dict(TokenizerConfig())
        preset = self.preset or ("small" if self.data is not None and not changed else None)
        given = [name for name, value in (("preset", self.preset), ("compression", self.compression)) if value]
        if changed and given:
            require(False, given[0], "must not be given together with options of --model", getattr(self, given[0]))
        require(bool(preset or not given), "compression", "must be given with a preset", self.compression)
        if preset:
            options["model"] = to_dict(tokenizer_preset(preset, self.compression or "4x8x8"))
        return options


def _held_out(figures: dict[str, Any]) -> str:
    """PSNR of the held-out clips and use of the codebook, in words."""
    lines = [f"  {clip['name']}: {clip['psnr']:.2f} dB" for clip in figures["clips"]]
    clip, count = figures["clips"][0], len(figures["clips"])
    said = (
        f"held out, step {figures['step']}: {figures['psnr']:.2f} dB mean PSNR of {count} clips of "
        f"{clip['width']}x{clip['height']}, {100 * figures['codebook_use']:.1f}% of the codes in {figures['tokens']} "
        f"tokens (perplexity {figures['perplexity']:.0f}); see reconstructions.png"
    )
    return "\n".join([said, *lines])


@dataclass(frozen=True, kw_only=True)
class Render(Command):
    """Render captioned clips of the world and encode them to token shards, the language model's data.

    Attributes:
        tokenizer: the folder of a tokenizer's training.
        out: the folder of shards; those that are there already are kept.
        clips: how many.
        num_frames: frames of a clip, 1 + a multiple of the tokenizer's `temporal`.
        seed: of the clips.
        height: of a clip in pixels.
        width: of a clip in pixels.
        device: auto, cpu or cuda[:n].
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
        from ..data.rendered import encode_world
        from ..tokenizer.video_tokenizer import load_tokenizer

        encode_world(
            load_tokenizer(self.tokenizer, device=self.device), self.out, clips=self.clips, num_frames=self.num_frames,
            seed=self.seed, height=self.height, width=self.width,
        )  # fmt: skip
        print(f"wrote {self.out}: {self.clips} clips of {self.num_frames} frames")
        return 0


@dataclass(frozen=True, kw_only=True)
class TrainText(Command):
    """Train the text model on captions.

    Attributes:
        out: the file to write.
        data: a folder of token shards, whose captions are taken.
        captions: a text file with a caption a line, instead of data.
        vocab_size: the most text ids that it may have.
        model_type: word knows whole words; unigram and bpe spell new ones from pieces.
    """

    example = "reelm train text --data runs/tokens --out runs/text.model"
    out: Path
    data: Path | None = None
    captions: Path | None = None
    vocab_size: int = 256
    model_type: Literal["word", "unigram", "bpe"] = "word"

    def run(self) -> int:
        from ..core.files import atomic_write, check_writable
        from ..data.token_shards import read_shards
        from ..lm.text import TextEncoder, train_text

        check_writable(self.out, "out")
        given = (self.data, self.captions)
        require(given.count(None) == 1, "data, captions", "must be exactly one of the two", [*map(str, given)])
        if self.data is not None:
            captions = [text for shards in read_shards(self.data) for texts in shards.captions for text in texts]
        elif self.captions is not None:
            captions = self.captions.read_text(encoding="utf-8", errors="replace").splitlines()
        model = train_text(captions, vocab_size=self.vocab_size, model_type=self.model_type)
        atomic_write(self.out, model)
        print(f"wrote {self.out}: {TextEncoder(model).vocab_size} text ids from {len(captions)} captions")
        return 0
