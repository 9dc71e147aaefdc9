"""The commands that make a model: train tokenizer, render, train text, train lm."""

import dataclasses
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..core.errors import require
from .base import Command, config_options
from .data import prepared

# What the data and the tokenizer say about a language model, so that nobody has to.
DERIVED = ("vocab_size", "rows", "columns", "text_vocab_size")

STRIDE = 4  # frames between windows of clips, which are few where they are one's own


def _tokenizer_options() -> type:
    from ..tokenizer.training import TokenizerTraining

    return config_options(TokenizerTraining)


def _windows_options() -> type:
    from ..data.encode import Windows

    return config_options(Windows, default=Windows(stride=STRIDE), leave_out=("seed",))


def _lm_options() -> type:
    from ..lm.training import LMTraining

    return config_options(LMTraining, leave_out=DERIVED)


def _sampling_options() -> type:
    from ..sampling.rules import SamplingConfig

    return config_options(SamplingConfig)


@dataclass(frozen=True, kw_only=True)
class _Run(Command):
    """Options of all training runs.

    Attributes:
        out: the run's folder; Ctrl-C leaves a checkpoint in it.
        resume: go on with the run in that folder.
        device: auto, cpu or cuda[:n].
    """

    out: Path
    resume: bool = False
    device: str = "auto"

    def report(self, files: str) -> int:
        """Say how far the run in `out` has come; 130 if that is not its end."""
        from safetensors import safe_open

        with safe_open(self.out / "state.safetensors", framework="pt") as file:
            step, steps = (int(file.metadata()[name]) for name in ("step", "steps"))
        print(f"wrote {self.out}: {files} of step {step} of {steps}")
        return 0 if step >= steps else 130


@dataclass(frozen=True, kw_only=True)
class TrainTokenizer(_Run):
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
        from ..tokenizer.training import TokenizerTraining, TrainingClips, check_stage, train_tokenizer

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
        from ..core.config import to_dict
        from ..tokenizer.config import TokenizerConfig, tokenizer_preset

        options = dataclasses.asdict(self.recipe)
        if self.decoder_of is not None:
            sizes = {"preset": self.preset, "compression": self.compression}
            sizes |= _changed(options["model"], to_dict(TokenizerConfig()), "model.")
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


def _changed(options: dict[str, Any], default: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Name and value of the options that are not the default's, of tables in tables too."""
    changed: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, dict):
            changed |= _changed(value, default[name], f"{prefix}{name}.")
        elif value != default[name]:
            changed[prefix + name] = value
    return changed


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
        from ..tokenizer.encode import encode_world
        from ..tokenizer.model import load_tokenizer

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
        from ..core.shards import read_shards
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


@dataclass(frozen=True, kw_only=True)
class TrainLM(_Run):
    """Train a language model, and put the checkpoint together that --model loads.

    Of prepared clips, or a folder of clips, it makes tokens first, and in the end continues the held-out ends of the
    clips: continuations.png and .mp4 show them beside the truth.

    Attributes:
        data: a folder of token shards, of clips that reelm prepare made, or of any clips.
        tokenizer: the folder of the training of the tokenizer that makes, or made, the tokens.
        text: the text model; without one it is trained on the captions.
        init: start from the weights of this model (a bundled name, a folder) instead of from nothing.
        windows: what is cut out of clips, where the data are clips.
        sampling: what the model will sample by; without guidance where no clip has a caption.
    """

    example = "reelm train lm --data my_clips --tokenizer runs/tokenizer --out runs/lm"
    data: Path
    tokenizer: Path
    text: Path | None = None
    init: str | None = None
    windows: Annotated[Any, tyro.conf.arg(constructor_factory=_windows_options)]
    sampling: Annotated[Any, tyro.conf.arg(constructor_factory=_sampling_options)]
    recipe: Annotated[Any, tyro.conf.arg(name="", constructor_factory=_lm_options)]

    def run(self) -> int:
        from ..core.checkpoint import find_checkpoint
        from ..core.config import from_dict
        from ..core.shards import read_shards
        from ..core.training import check_run
        from ..lm.training import LMTraining, train_lm
        from ..lm.transformer import VideoTransformer
        from ..sampling.pretrained import FORMAT, ModelConfig, Pretrained, save_pretrained
        from ..sampling.rules import SamplingConfig
        from ..sampling.samples import write_samples
        from ..tokenizer.model import VideoTokenizer, load_tokenizer

        # What is refused is refused before clips are encoded: the sizes that are not known yet are left at 1.
        check_run(self.out, self.resume)
        options = dataclasses.asdict(self.recipe)
        from_dict(LMTraining, {**options, "model": options["model"] | dict.fromkeys(DERIVED, 1)}, "options")
        sampling = from_dict(SamplingConfig, dataclasses.asdict(self.sampling), "options")
        tokenizer: VideoTokenizer = load_tokenizer(self.tokenizer, device=self.device)
        tokens, held_out, clips = self._tokens(tokenizer)
        sets = read_shards(tokens)
        captions = [text for shards in sets for texts in shards.captions for text in texts]
        text, (rows, columns) = self._text_encoder(captions), sets[0].tokens_Nthw.shape[2:]
        derived = (tokenizer.vocab_size, rows, columns, text.vocab_size)
        options["model"] |= dict(zip(DERIVED, derived, strict=True))
        recipe = from_dict(LMTraining, options, "options")
        if not any(captions):
            sampling = dataclasses.replace(sampling, guidance_scale=1.0)
        side = tokenizer.config.spatial
        config = ModelConfig(
            format=FORMAT, fps=sets[0].fps, height=rows * side, width=columns * side,
            tokenizer=tokenizer.config, lm=recipe.model, sampling=sampling,
        )  # fmt: skip

        def draw(lm: VideoTransformer) -> None:
            parts = Pretrained("training", "", "", config, tokenizer, lm, text)
            write_samples(parts, captions, self.out / "samples.png")

        lm = train_lm(
            recipe, tokens, text, self.out, held_out=held_out, device=self.device, resume=self.resume,
            init=None if self.init is None else find_checkpoint(self.init), on_checkpoint=draw,
        )  # fmt: skip
        save_pretrained(self.out / "model", config, tokenizer, lm, text)
        code = self.report(f"a model for --model {shlex.quote(str(self.out / 'model'))},")
        if held_out is not None:
            self._tell_best()
        if clips is not None:
            self._continue(clips, Pretrained("training", "", "", config, tokenizer, lm, text))
        return code

    def _tell_best(self) -> None:
        lines = (self.out / "held-out.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines]
        best, last = min(entries, key=lambda entry: entry["nats_per_token"]), entries[-1]
        print(
            f"the model is that of step {best['step']}: {best['nats_per_token']:.3f} nats a held-out token "
            f"(step {last['step']}: {last['nats_per_token']:.3f})"
        )

    def _tokens(self, tokenizer: Any) -> tuple[Path, Path | None, Path | None]:
        """The folders of token shards, of held-out ones and of the clips that they were made of, where there are any.

        A run that goes on has its tokens; which clips and windows they are of is kept in data.json.
        """
        from ..core.checkpoint import read_json, save_json
        from ..core.config import from_dict
        from ..data.clip_shards import ClipShards
        from ..data.encode import Windows, encode_shards

        options = dataclasses.asdict(self.windows)
        windows = from_dict(Windows, {**options, "seed": self.recipe.seed}, "options")
        if any(self.data.glob("*.safetensors")):
            usual = dataclasses.asdict(_windows_options()())
            given = {f"windows.{name}": value for name, value in options.items() if value != usual[name]}
            rule = "must not be given where the data are tokens, which are windows already"
            require(not given, ", ".join(given), rule, given)
            return self.data, None, None
        tokens, held_out, record = self.out / "tokens", self.out / "held-out-tokens", self.out / "data.json"
        if self.resume:
            made = read_json(record)
            require(made.get("windows") == windows.told(), "windows", "must be those of the run", made.get("windows"))
            return tokens, held_out if held_out.exists() else None, Path(made["clips"])
        clips = prepared(self.data, self.out, known=self.tokenizer / "shards")
        for old in [*tokens.glob("*.safetensors"), *held_out.glob("*.safetensors")]:
            if not old.stem.endswith(f"-{windows.num_frames}"):  # of a run that never began
                old.unlink()
        encode_shards(tokenizer, ClipShards(clips), tokens, windows)
        ends = ClipShards(clips, "held-out")
        judges = any(sample.frames >= windows.num_frames for sample in ends.samples)
        if judges:
            encode_shards(tokenizer, ends, held_out, dataclasses.replace(windows, crops=1, mirror=False))
        save_json(record, {"clips": str(clips), "windows": windows.told()})
        return tokens, held_out if judges else None, clips

    def _text_encoder(self, captions: list[str]) -> Any:
        from ..core.files import atomic_write
        from ..lm.text import TextEncoder, train_text, words_of

        if self.text is not None:
            return TextEncoder(self.text.read_bytes())
        path = self.out / "text.model"
        if not (self.resume and path.exists()):
            path.parent.mkdir(parents=True, exist_ok=True)
            # A model of clips without captions knows one word, since none cannot be.
            atomic_write(path, train_text([text for text in captions if words_of(text)] or ["clip"]))
        return TextEncoder(path.read_bytes())

    def _continue(self, clips: Path, parts: Any) -> None:
        from ..core.checkpoint import save_json
        from ..data.clip_shards import ClipShards
        from ..sampling.generator import VideoGenerator
        from ..sampling.held_out import continue_held_out, least_frames

        held_out = ClipShards(clips, "held-out")
        generator = VideoGenerator(parts)
        least = least_frames(parts.tokenizer.compression.t)
        if all(sample.frames < least for sample in held_out.samples):
            print(f"no held-out sample has {least} frames: nothing to continue (reelm prepare --held-out-seconds)")
            return
        report = continue_held_out(generator, held_out, self.out)
        save_json(self.out / "continuations.json", report)
        print(
            f"continued {report['n']} held-out clips by {report['predicted_frames']} frames: {report['psnr']:.2f} dB, "
            f"the last frame repeated {report['psnr_of_the_last_frame_repeated']:.2f} dB; "
            f"see {self.out / 'continuations.png'}"
        )
