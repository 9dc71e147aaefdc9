"""The command line: a table of contents of the library.

    reelm generate "a red ball rolls to the right over grass" --seconds 2 --seed 7 -o ball.mp4
    reelm continue ball.mp4 --seconds 4 -o longer.mp4

A command is a dataclass: its fields are the options, from which tyro makes flags and help, and `run` does the work.
Options that the library has a dataclass for are made from that dataclass. Results go to stdout, all else to stderr.
Each command imports what it needs when it runs, so that help and parsing stay quick.
"""

import dataclasses
import importlib.metadata
import json
import os
import secrets
import shlex
import sys
from abc import ABC, abstractmethod
from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

import tyro
from tyro.conf import Positional

from . import __version__
from .core.errors import ReelmError, require
from .core.files import free_name, numbered_names

if TYPE_CHECKING:
    from .sampling.generator import VideoGenerator
    from .sampling.video import Video

# What the data and the tokenizer say about a language model, so that nobody has to.
DERIVED = ("vocab_size", "rows", "columns", "text_vocab_size")

Prompt = Annotated[Positional[str], tyro.conf.arg(metavar="PROMPT")]
Output = Annotated[str | None, tyro.conf.arg(aliases=["-o"])]


# ---- options made from the library's own dataclasses


def _options(cls: type, default: Any = None, leave_out: Collection[str] = ()) -> type:
    """The fields of a config as options: its names, types, defaults (those of `default`, if given) and help.

    Its checks are not among them: `from_dict` builds the config itself after the parser, so that what it refuses is
    worded like every other refusal.
    """
    hints, fields = get_type_hints(cls), []
    for item in dataclasses.fields(cls):
        if item.name in leave_out:
            continue
        kind, value = hints[item.name], item.default
        if default is not None:
            value = getattr(default, item.name)
        elif item.default_factory is not dataclasses.MISSING:
            value = item.default_factory()
        if dataclasses.is_dataclass(kind):
            kind = _options(kind, None if value is dataclasses.MISSING else value, leave_out)  # type: ignore[arg-type]
            value = dataclasses.field(default_factory=kind)
        fields.append((item.name, kind, value))
    return dataclasses.make_dataclass(cls.__name__, fields, kw_only=True, namespace={"__doc__": cls.__doc__})


def _sampling_options() -> type:
    from .sampling.rules import SamplingConfig

    hint = tyro.conf.arg(help_behavior_hint="(default: the model's own)")
    # None is a value that top_k can have, so "the model's own" needs a name.
    fields = [
        (name, Annotated[kind | Literal["model"], hint], "model")
        for name, kind in get_type_hints(SamplingConfig).items()
    ]
    return dataclasses.make_dataclass("Sampling", fields, kw_only=True, namespace={"__doc__": SamplingConfig.__doc__})


def _tokenizer_options() -> type:
    from .tokenizer.training import TokenizerTraining

    return _options(TokenizerTraining)


def _lm_options() -> type:
    from .lm.training import LMTraining

    return _options(LMTraining, leave_out=DERIVED)


# ---- commands that use a model


class Command(ABC):
    """What `COMMANDS` holds: a dataclass of options, an example for the end of its help, and the work."""

    example: ClassVar[str]

    @abstractmethod
    def run(self) -> int:
        """Do it, and return the exit code."""


@dataclass(frozen=True, kw_only=True)
class _Model(Command):
    """Options of all commands that load a model.

    Attributes:
        model: a bundled model's name, a checkpoint folder, or a hub id.
        device: auto, cpu or cuda[:n].
        dtype: auto, float32, bfloat16 or float16.
        json: print one JSON document and nothing else.
    """

    model: str = "world"
    device: str = "auto"
    dtype: str = "auto"
    json: bool = False

    # One clip is many small steps: on two busy cores, two threads made 24 tokens/s and one thread 188.
    one_thread: ClassVar[bool] = True

    def load(self) -> "VideoGenerator":
        import torch

        from .sampling.generator import VideoGenerator

        if self.one_thread and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(1)
        return VideoGenerator.from_pretrained(self.model, device=self.device, dtype=self.dtype)


@dataclass(frozen=True, kw_only=True)
class _Clip(_Model):
    """Options of all commands that make clips.

    Attributes:
        seconds: how long, or how much longer; 2 unless given.
        num_frames: how long in frames, instead of seconds.
        seed: a whole number; the same seed gives the same clip. A random one unless given.
        negative_prompt: what guidance leads away from.
        output: the file to write; .mp4, .mkv, .gif, .webp, or no suffix for a folder of PNGs.
    """

    seconds: float | None = None
    num_frames: int | None = None
    seed: int | None = None
    negative_prompt: str | None = None
    sampling: Annotated[Any, tyro.conf.arg(name="", constructor_factory=_sampling_options)]
    output: Output = None

    def arguments(self) -> dict[str, Any]:
        """The arguments that `generate`, `continue_clip` and `stream` share."""
        names = ("seconds", "num_frames", "seed", "negative_prompt")
        return {name: getattr(self, name) for name in names} | self.given_sampling()

    def given_sampling(self) -> dict[str, Any]:
        """The sampling options that are not left to the model."""
        return {name: value for name, value in vars(self.sampling).items() if value != "model"}

    def report(self, files: list[Path], video: "Video", made: int) -> None:
        """Say what was written, how long it took to make `made` frames, and how to go on."""
        tokens = video.stats["tokens"]
        seconds = sum(video.stats[f"{part}_seconds"] for part in ("read", "sample", "decode"))
        count, height, width, _ = video.frames.shape
        longer = "longer.mp4" if files[0].name != "longer.mp4" else "longer-2.mp4"
        model = [] if self.model == "world" else ["--model", self.model]
        go_on = shlex.join(["reelm", "continue", str(files[0]), "--seconds", "4", *model, "-o", longer])
        rates = {"tokens_per_second": tokens / seconds, "times_realtime": made / video.fps / seconds}
        if self.json:
            values = {
                "files": files, "prompt": video.prompt, "seed": video.seed, "frames": count, "height": height,
                "width": width, "fps": video.fps, "seconds": video.seconds, "took_seconds": seconds, "tokens": tokens,
                **rates, "settings": video.settings, "continue": go_on,
            }  # fmt: skip
            print(_json(values))
            return
        size = f"{count} frames {width}x{height} at {video.fps:.4g} fps = {video.seconds:.4g} s, seed {video.seed}"
        print(f"wrote {', '.join(map(str, files))}: {size}")
        print("took {:.3g} s: {:.4g} tokens/s, {:.3g} times realtime".format(seconds, *rates.values()))
        print(f"go on with: {go_on}")


@dataclass(frozen=True, kw_only=True)
class _Generate(_Clip):
    """Generate clips from a prompt.

    Attributes:
        prompt: what the clip shows.
        num_videos_per_prompt: how many samples; they are written to out-1.mp4, out-2.mp4, ...
    """

    example = 'reelm generate "a red ball rolls to the right over grass" --seconds 2 --seed 7 -o ball.mp4'
    prompt: Prompt
    num_videos_per_prompt: int = 1

    def run(self) -> int:
        from .sampling.request import MAX_CLIPS
        from .tokenizer.clip_write import check_output

        count = self.num_videos_per_prompt
        require(1 <= count <= MAX_CLIPS, "num_videos_per_prompt", f"must be from 1 to {MAX_CLIPS}", count)
        paths = numbered_names(self.output or free_name(_slug(self.prompt), count), count)
        for path in paths:
            check_output(path)
        videos = self.load().generate(self.prompt, num_videos_per_prompt=count, **self.arguments())
        videos = videos if isinstance(videos, list) else [videos]
        files = [_save(video, path) for video, path in zip(videos, paths, strict=True)]
        self.report(files, videos[0], len(videos[0].frames))
        return 0


@dataclass(frozen=True, kw_only=True)
class _Continue(_Clip):
    """Continue a clip: one of reelm's from its own tokens, any other video, gif or image by encoding it.

    Attributes:
        clip: the file to continue; the new file starts with it.
        prompt: what is to come; the clip's own prompt unless given.
        fit: how a picture of another shape is fitted.
    """

    example = "reelm continue ball.mp4 --seconds 4 -o longer.mp4"
    clip: Annotated[Positional[Path], tyro.conf.arg(metavar="CLIP")]
    prompt: str | None = None
    fit: Literal["crop", "pad", "stretch"] = "crop"

    def run(self) -> int:
        from .sampling.video import Video
        from .tokenizer.clip_write import check_output

        path = self.output or free_name(f"{self.clip.stem}-longer")
        check_output(path)
        clip = Video.load(self.clip)
        generator = self.load()
        video = generator.continue_clip(clip, prompt=self.prompt, fit=self.fit, **self.arguments())
        config = generator.parts.config
        added = video.stats["passes"] // config.lm.frame_size * config.tokenizer.temporal
        self.report([_save(video, path)], video, added)
        return 0


@dataclass(frozen=True, kw_only=True)
class _Stream(_Clip):
    """Write a clip while it is made, for as long as you like: Ctrl-C ends it, and what there is by then is kept.

    Attributes:
        prompt: what the clip shows.
        seconds: how long; without an end unless given.
        output: the file to write, .mp4 or .mkv; its .partial file beside it can be played while it grows.
    """

    example = 'reelm stream "a blue ring spins" --seconds 60 -o ring.mp4'
    prompt: Prompt

    def run(self) -> int:
        import time

        import numpy as np

        from .core.progress import note, progress
        from .core.training import stop_signals
        from .sampling.video import Video, video_metadata
        from .tokenizer.clip_write import ClipWriter

        path = self.output or free_name(_slug(self.prompt))
        ClipWriter(path, fps=1)  # refuses the path before the model is loaded; no file is opened
        generator = self.load()
        config = generator.parts.config
        seed = secrets.randbits(32) if self.seed is None else self.seed
        sampling = dataclasses.replace(config.sampling, **self.given_sampling())
        settings = generator.parts.settings(sampling, negative_prompt=self.negative_prompt or "")
        tokens = array("I")

        def clip(frames: int) -> Video:
            # Of the frames only their shape is told: they are in the file, and an endless stream fits no memory.
            none = np.broadcast_to(np.uint8(0), (frames, config.height, config.width, 3))
            grid = np.array(tokens, np.int64).reshape(-1, config.lm.rows, config.lm.columns) if tokens else None
            return Video(none, generator.fps, tokens=grid, prompt=self.prompt, seed=seed, settings=settings)

        options = self.arguments() | {"seed": seed}
        chunks = generator.stream(self.prompt, callback_on_step_end=lambda _, new: tokens.append(int(new)), **options)
        began = time.perf_counter()
        with stop_signals() as stopped, ClipWriter(path, generator.fps, video_metadata(clip(1))) as writer:
            note(f"writing {writer.growing}; Ctrl-C ends it")
            for frames in progress(chunks, "streaming", unit="latent frame"):
                writer.write(frames)
                if stopped:
                    break
            writer.metadata = video_metadata(clip(writer.frames))
        video = clip(writer.frames)
        video.stats |= {"tokens": len(tokens), "read_seconds": 0.0, "decode_seconds": 0.0}
        video.stats["sample_seconds"] = time.perf_counter() - began
        if stopped:
            note(f"reelm: interrupted; {path} holds {writer.frames} frames = {video.seconds:.4g} s")
        self.report([writer.path], video, writer.frames)
        return 128 + stopped[0] if stopped else 0


@dataclass(frozen=True, kw_only=True)
class _Bench(_Model):
    """Measure sampling speed on this machine; the last line is the same as one JSON document.

    Attributes:
        seconds: length of a clip.
        batch: clips at once.
        guidance_scale: the model's own unless given; 1 is off.
        repeats: counted runs; figures are their medians.
    """

    example = "reelm bench --seconds 2 --batch 1 --repeats 3"
    seconds: float = 2.0
    batch: int = 1
    guidance_scale: float | None = None
    repeats: int = 3

    def run(self) -> int:
        generator = self.load()
        report = generator.benchmark(
            seconds=self.seconds, batch=self.batch, guidance_scale=self.guidance_scale, repeats=self.repeats
        )
        print(*([] if self.json else [report]), _json(report), sep="\n")
        return 0


@dataclass(frozen=True, kw_only=True)
class _Evaluate(_Model):
    """Judge a model's clips of held-out captions, and its tokenizer; the last line is one JSON document.

    Attributes:
        prompts: held-out captions of one object.
        two_objects: held-out captions of two objects; 0 leaves them out.
        clips: held-out rendered clips for the tokenizer.
        seed: of the captions, the clips and the sampling.
        batch: clips sampled at once.
        contact_sheet: a PNG to write, with the first generated clips.
    """

    one_thread = False  # batches are large
    example = "reelm evaluate --prompts 256 --contact-sheet sheet.png"
    prompts: int = 256
    two_objects: int = 128
    clips: int = 256
    seed: int = 1234
    batch: int = 16
    contact_sheet: Path | None = None

    def run(self) -> int:
        from .core.files import check_writable
        from .sampling.evaluate import evaluate_model

        if self.contact_sheet is not None:
            path = check_writable(self.contact_sheet, "contact_sheet")
            require(path.suffix.lower() == ".png", "contact_sheet", "must end in .png", str(path))
        report = evaluate_model(
            self.load(), prompts=self.prompts, two_objects=self.two_objects, clips=self.clips, seed=self.seed,
            batch=self.batch, contact_sheet=self.contact_sheet,
        )  # fmt: skip
        print(*([] if self.json else [report]), _json(report), sep="\n")
        return 0


@dataclass(frozen=True, kw_only=True)
class _Info(_Model):
    """Tell a model's sizes and default settings, and the versions that it runs on here."""

    example = "reelm info --model world"

    def run(self) -> int:
        import torch

        from .core.checkpoint import find_checkpoint

        parts, folder = self.load().parts, find_checkpoint(self.model)
        weight = next(parts.lm.parameters())
        found_triton = importlib.metadata.distributions(name="triton")
        values = {
            "model": parts.name,
            **parts.sizes(),
            **vars(parts.config.sampling),
            "bytes_on_disk": sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
            "reelm": __version__,
            "torch": torch.__version__,
            "triton": next((found.version for found in found_triton), "not installed"),
            "device": torch.cuda.get_device_name(weight.device) if weight.is_cuda else str(weight.device),
            "threads": torch.get_num_threads(),
            "dtype": str(weight.dtype).removeprefix("torch."),
        }
        table = "\n".join(f"{name.replace('_', ' '):22}{value}" for name, value in values.items())
        print(_json(values) if self.json else table)
        return 0


# ---- commands that make a model


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
class _TrainTokenizer(_Run):
    """Train a tokenizer on rendered clips."""

    example = "reelm train tokenizer --out runs/tokenizer --train.steps 2800"
    recipe: Annotated[Any, tyro.conf.arg(name="", constructor_factory=_tokenizer_options)]

    def run(self) -> int:
        from .core.config import from_dict
        from .tokenizer.training import TokenizerTraining, train_tokenizer

        recipe = from_dict(TokenizerTraining, dataclasses.asdict(self.recipe), "options")
        train_tokenizer(recipe, self.out, device=self.device, resume=self.resume)
        return self.report("tokenizer.json and tokenizer.safetensors")


@dataclass(frozen=True, kw_only=True)
class _Encode(Command):
    """Render captioned clips and encode them to token shards, the language model's data.

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

    example = "reelm encode --tokenizer runs/tokenizer --out runs/tokens --clips 40000 --num-frames 17 --seed 1"
    tokenizer: Path
    out: Path
    clips: int
    num_frames: int = 17
    seed: int = 1
    height: int = 64
    width: int = 64
    device: str = "auto"

    def run(self) -> int:
        from .tokenizer.encode import encode_world
        from .tokenizer.model import load_tokenizer

        encode_world(
            load_tokenizer(self.tokenizer, device=self.device), self.out, clips=self.clips, num_frames=self.num_frames,
            seed=self.seed, height=self.height, width=self.width,
        )  # fmt: skip
        print(f"wrote {self.out}: {self.clips} clips of {self.num_frames} frames")
        return 0


@dataclass(frozen=True, kw_only=True)
class _TrainText(Command):
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
        from .core.files import atomic_write, check_writable
        from .core.shards import read_shards
        from .lm.text import TextEncoder, train_text

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
class _TrainLM(_Run):
    """Train a language model on token shards, and put the checkpoint together that --model loads.

    Attributes:
        data: a folder of token shards.
        text: the text model.
        tokenizer: the folder of the training of the tokenizer that made the shards.
        init: start from the weights of this model (a bundled name, a folder) instead of from nothing.
    """

    example = "reelm train lm --data runs/tokens --text runs/text.model --tokenizer runs/tokenizer --out runs/lm"
    data: Path
    text: Path
    tokenizer: Path
    init: str | None = None
    recipe: Annotated[Any, tyro.conf.arg(name="", constructor_factory=_lm_options)]

    def run(self) -> int:
        from .core.checkpoint import find_checkpoint
        from .core.config import from_dict
        from .core.shards import read_shards
        from .lm.text import TextEncoder
        from .lm.training import LMTraining, train_lm
        from .lm.transformer import VideoTransformer
        from .sampling.evaluate import write_samples
        from .sampling.pretrained import FORMAT, ModelConfig, Pretrained, save_pretrained
        from .tokenizer.model import load_tokenizer
        from .world.scene import FPS

        text, tokenizer = TextEncoder(self.text.read_bytes()), load_tokenizer(self.tokenizer, device=self.device)
        rows, columns = read_shards(self.data)[0].tokens_Nthw.shape[2:]
        options = dataclasses.asdict(self.recipe)
        derived = (tokenizer.vocab_size, rows, columns, text.vocab_size)
        options["model"] |= dict(zip(DERIVED, derived, strict=True))
        recipe = from_dict(LMTraining, options, "options")
        side = tokenizer.config.spatial
        config = ModelConfig(
            format=FORMAT, fps=FPS, height=rows * side, width=columns * side,
            tokenizer=tokenizer.config, lm=recipe.model,
        )  # fmt: skip

        def draw(lm: VideoTransformer) -> None:
            write_samples(Pretrained("training", "", config, tokenizer, lm, text), self.out / "samples.png")

        lm = train_lm(
            recipe, self.data, text, self.out, device=self.device, resume=self.resume,
            init=None if self.init is None else find_checkpoint(self.init), on_checkpoint=draw,
        )  # fmt: skip
        save_pretrained(self.out / "model", config, tokenizer, lm, text)
        return self.report(f"a model for --model {shlex.quote(str(self.out / 'model'))},")


# ---- the table of contents

COMMANDS: dict[str, type[Command]] = {
    "generate": _Generate,
    "continue": _Continue,
    "stream": _Stream,
    "bench": _Bench,
    "evaluate": _Evaluate,
    "info": _Info,
    "train tokenizer": _TrainTokenizer,
    "encode": _Encode,
    "train text": _TrainText,
    "train lm": _TrainLM,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for what is refused or the system denies, 130 after Ctrl-C.

    Args:
        arguments: the words after `reelm`; those of this process unless given.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        name = next((name for name in COMMANDS if words[: len(name.split())] == name.split()), None)
        if name is not None:
            return _parse(name, words[len(name.split()) :]).run()
        if words == ["--version"]:
            print(f"reelm {__version__}")
            return 0
        if words and not {"-h", "--help"} & set(words):
            require(False, "command", f"must be one of {', '.join(COMMANDS)}", " ".join(words[:2]))
        print(_contents())
        return 0
    except SystemExit as stop:  # of the parser, which has said why
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        print("reelm: interrupted", file=sys.stderr)
        return 130
    except (ReelmError, OSError) as error:
        print("reelm: error:", " ".join(str(error).split()), file=sys.stderr)
        return 2


def _parse(name: str, words: list[str]) -> Command:
    command = COMMANDS[name]
    try:
        return tyro.cli(command, prog=f"reelm {name}", args=words, config=[tyro.conf.FlagCreatePairsOff])
    except SystemExit as stop:
        if not stop.code:
            print(f"example:\n  {command.example}")
        raise


def _contents() -> str:
    lines = [f"  {name:16}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join([
        "usage: reelm COMMAND [OPTIONS]", "", "Video, one discrete token at a time.", "", "commands:", *lines, "",
        "reelm COMMAND --help lists the options of a command; reelm --version tells the version.", "",
        "example:", f"  {_Generate.example}",
    ])  # fmt: skip


def _json(values: Any) -> str:
    """One line of strict JSON: what is not finite becomes null."""
    return json.dumps(json.loads(json.dumps(values, default=str), parse_constant=lambda _: None))


def _slug(prompt: str) -> str:
    """A file's stem from the first words of a prompt."""
    from .lm.text import words_of

    return "-".join(words_of(prompt)[:12])[:60].strip("-") or "clip"


def _save(video: "Video", path: str) -> Path:
    """Write a clip; where that fails, say how to get it back: what was generated is a seed away."""
    try:
        return video.save(path)
    except (ReelmError, OSError) as error:
        raise ReelmError(f"{error}; the same command with --seed {video.seed} makes the same clip again") from error
