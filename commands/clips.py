"""The commands that write clips: generate, continue, stream, decode."""

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

from ..core.errors import require
from ..core.free_names import free_name, numbered_names
from ..core.progress import note
from .base import BatchCommand, ModelCommand, strict_json
from .parser import Option

if TYPE_CHECKING:
    from ..generation.generator import VideoGenerator
    from ..generation.kept_source import ExtendedVideo, KeptSource
    from ..generation.pretrained import ModelConfig
    from ..generation.session import SessionState
    from ..generation.session_files import SessionFiles
    from ..generation.stream_file import StreamedClip
    from ..generation.video import Video

P = TypeVar("P", bound=str | None)
Prompt = Annotated[str, Option(positional=True)]
Output = Annotated[str | None, Option(short="-o")]


def _sampling_options() -> type:
    from ..sampling.plan import SamplingConfig

    # None is a valid top_k, so the default, which means the model's own value, is the string "model".
    option, hints = Option(default="the model's own"), get_type_hints(SamplingConfig)
    fields = [(name, Annotated[hint, option], "model") for name, hint in hints.items()]
    return dataclasses.make_dataclass("Sampling", fields, kw_only=True, namespace={"__doc__": SamplingConfig.__doc__})


@dataclass(frozen=True, kw_only=True)
class _Clip(ModelCommand):
    """Options of all commands that draw clips.

    Attributes:
        seconds: The length of the clip, or of its continuation, in seconds; 2 unless given.
        num_frames: The same length in frames, in place of --seconds.
        seed: The seed, a whole number; the same seed gives the same clip. It is random unless given.
        negative_prompt: The prompt that guidance leads away from.
        then: A change of the prompt, such as "4: a blue ring spins" from second 4 on; may be given several times.
        keys: What is held during each picture, of a model that is played: written, such as "right-30,right+up-8", or a
            file of it. Unless a length is given, the clip ends with the picture in which the last keys show.
        decoder: The decoder that finds the tokens. sequential draws one token per pass, and jacobi the same tokens in
            fewer passes; auto chooses the faster one. diagonal draws other tokens, a diagonal of the picture or a
            lattice at a time.
        block_size: The number of positions that jacobi computes in a pass.
        output: The file to write: .mp4, .mkv, .gif, .webp, or without a suffix a folder of PNGs.
        overwrite: Replace a file that is not a clip of reelm; the clip that is continued is never replaced.
        processes: The number of processes that hold the language model together: torchrun --nproc-per-node N -m reelm.
    """

    seconds: float | None = None
    num_frames: int | None = None
    seed: int | None = None
    negative_prompt: str | None = None
    then: Annotated[tuple[str, ...], Option(repeatable=True)] = ()
    keys: str | None = None
    decoder: Literal["auto", "sequential", "jacobi", "diagonal"] = "auto"
    block_size: int | None = None
    sampling: Annotated[Any, Option(group=_sampling_options, prefixed=False)]
    output: Output = None
    overwrite: bool = False
    processes: int = 1

    def load(self, processes: int = 1) -> "VideoGenerator":
        """Load the model onto its device, or a part of it in each of the processes."""
        return super().load(max(processes, self.processes))

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that `generate`, `continue_clip` and `stream` share."""
        from ..generation.play_file import written_keys

        names = ("seconds", "num_frames", "seed", "negative_prompt", "decoder", "block_size")
        given = {name: getattr(self, name) for name in names} | self.given_sampling()
        return given if self.keys is None else given | {"keys": written_keys(self.keys)}

    def schedule(self, prompt: P) -> P | list[tuple[float, str]]:
        """Return the prompt, or its schedule if it changes."""
        if not self.then:
            return prompt
        from ..generation.arguments import read_schedule

        require(prompt is not None, "then", "needs a prompt to begin with", self.then)
        schedule = [(0.0, str(prompt))]
        for entry in self.then:
            second, colon, text = entry.partition(":")
            try:
                schedule.append((float(second), text.strip()))
            except ValueError:
                colon = ""
            require(bool(colon and text.strip()), "then", "must be like '4: a blue ring spins'", entry)
        return list(read_schedule(schedule, "then", str))

    def paths(self, stem: str, count: int, inputs: Sequence[Path] = ()) -> list[str]:
        """Return the files of `count` clips, whose name is `stem` unless given, after a check that each can be written.

        Args:
            stem: The name without a suffix; where it is taken, a number follows.
            count: The number of clips.
            inputs: The files that the clips are made from.
        """
        from ..generation.request import MAX_CLIPS
        from ..media.writer import check_output

        require(1 <= count <= MAX_CLIPS, "num_videos_per_prompt", f"must be from 1 to {MAX_CLIPS}", count)
        name = free_name(stem, count) if self.output is None else self.output
        check_output(name, overwrite=True)  # before numbers are put into the name
        paths = numbered_names(name, count)
        for path in paths:
            check_output(path, overwrite=self.overwrite, inputs=inputs)
        return paths

    def check(self, call: str, prompt: Any, **options: object) -> "ModelConfig":
        """Refuse arguments of a call that do not go with the model, by its config alone: loading it takes seconds.

        Returns:
            The config.
        """
        from ..core.checkpoint import find_checkpoint
        from ..generation.pretrained import read_config
        from ..generation.request import read_request

        config, arguments = read_config(find_checkpoint(self.model)), {**self.arguments(), **options}
        read_request(config, call, prompt, arguments, continuing=call == "continue_clip")
        return config

    def given_sampling(self) -> dict[str, Any]:
        """Return the sampling options that were given, without those that are left to the model."""
        return {name: value for name, value in vars(self.sampling).items() if value != "model"}

    def sessions(self, paths: list[str], **options: Any) -> "SessionFiles":
        """Return the session files of these clips, which tell how to go on from them after an interruption."""
        from ..generation.session_files import SessionFiles

        drawing = [] if self.decoder == "auto" else ["--decoder", self.decoder]
        drawing += [] if self.block_size is None else ["--block-size", str(self.block_size)]
        return SessionFiles(
            paths, overwrite=self.overwrite, options=self.model_words(), drawing_options=drawing, **options
        )

    def words_to_continue(self) -> list[str]:
        """Return the options that a continuation of the clip needs."""
        return [] if self.model == "world" else ["--model", self.model]

    def print_video(self, files: list[Path], video: "Video | ExtendedVideo") -> None:
        """Print the files, the speed and the next command of a finished video, as `print_clip` does."""
        stats = video.stats
        elapsed = sum(stats[f"{part}_seconds"] for part in ("read", "sample", "decode"))
        self.print_clip(
            files, video, video.shape, new_frames=stats["new_frames"], tokens=stats["tokens"], elapsed=elapsed
        )

    def print_clip(
        self, files: list[Path], clip: "Video | ExtendedVideo | StreamedClip", size: tuple[int, int, int], *,
        new_frames: int, tokens: int, elapsed: float,
    ) -> None:  # fmt: skip
        """Print the files of a clip, the speed of its generation, and the command that continues it.

        Args:
            files: The files that were written.
            clip: The clip, or the first of several.
            size: The numbers of frames, rows and columns of the clip.
            new_frames: The number of frames that were generated.
            tokens: The number of tokens that were drawn.
            elapsed: The seconds that this took.
        """
        count, height, width = size
        longer = free_name("longer")
        words = ["--seconds", "4", *self.words_to_continue(), "-o", longer]
        command = shlex.join(["reelm", "continue", str(files[0]), *words])
        rates = {"tokens_per_second": tokens / elapsed, "times_realtime": new_frames / clip.fps / elapsed}
        if self.json:
            values = {
                "files": files, "prompt": clip.prompt, "seed": clip.seed, "frames": count, "height": height,
                "width": width, "fps": clip.fps, "seconds": clip.seconds, "took_seconds": elapsed, "tokens": tokens,
                **rates, "settings": clip.settings, "continue": command,
            }  # fmt: skip
            print(strict_json(values))
            return
        summary = f"{count} frames {width}x{height} at {clip.fps:.4g} fps = {clip.seconds:.4g} s, seed {clip.seed}"
        print(f"wrote {', '.join(map(str, files))}: {summary}")
        print("took {:.3g} s: {:.4g} tokens/s, {:.3g} times realtime".format(elapsed, *rates.values()))
        print(f"continue with: {command}")


@dataclass(frozen=True, kw_only=True)
class Generate(_Clip, BatchCommand):
    """Generate clips from a prompt, or from a file of prompts.

    Attributes:
        prompt: The text that the clip shows.
        prompts: A file of prompts in place of one: each line is a JSON object with a prompt and options of its own. The
            same command again draws the clips that are missing in --out.
        out: The folder for the clips of --prompts and results.jsonl, new or empty or that of the same command.
        num_videos_per_prompt: The number of samples; several are written to out-1.mp4, out-2.mp4, ...
        batch_size: The number of clips that are drawn at once; all unless given, and with --prompts 8.
        save_state: Save the session next to the clip, so that `reelm continue` need not read the clip's tokens again.
    """

    example = 'reelm generate "a red ball rolls to the right over grass" --seconds 2 --seed 7 -o ball.mp4'
    prompt: Annotated[str | None, Option(positional=True)] = None
    prompts: Path | None = None
    out: Path | None = None
    num_videos_per_prompt: int = 1
    batch_size: int | None = None
    save_state: bool = False

    def run(self) -> int:
        require((self.prompt is None) != (self.prompts is None), "prompt, prompts", "must be exactly one of the two",
                self.prompt)  # fmt: skip
        if self.prompts is not None:
            return self._draw_file(self.prompts)
        require(self.out is None, "out", "must be given with prompts alone (--output names a clip)", self.out)
        require(self.ray_options() is None, "engine", "must be given with prompts alone", self.engine)
        paths = self.paths(_slug(str(self.prompt)), self.num_videos_per_prompt)
        prompt, count, options = self.schedule(str(self.prompt)), len(paths), self.arguments()
        self.check("generate", prompt, num_videos_per_prompt=count, batch_size=self.batch_size)
        generator = self.load()
        with self.sessions(paths, save_state=self.save_state) as sessions:
            videos = generator.generate(
                prompt, num_videos_per_prompt=count, batch_size=self.batch_size, callback_on_tokens=sessions.save,
                **options,
            )  # fmt: skip
            files = [video.save(path, overwrite=self.overwrite) for video, path in zip(videos, paths, strict=True)]
        self.print_video(files + sessions.kept, videos[0])
        return 0

    def _draw_file(self, prompts: Path) -> int:
        from ..generation.prompt_file import draw_prompts

        require(self.out is not None, "out", "must be given with prompts", None)
        assert self.out is not None
        for name in ("then", "output", "num_videos_per_prompt", "overwrite"):
            same = getattr(self, name) == getattr(type(self), name)
            require(same, name, "must not be given with prompts", getattr(self, name))
        given = {name: value for name, value in self.arguments().items() if name != "seed" and value is not None}
        report = draw_prompts(
            self.load(), prompts, self.out, seed=0 if self.seed is None else self.seed,
            batch_size=8 if self.batch_size is None else self.batch_size, save_state=self.save_state,
            ray=self.ray_options(), **given | self.given_sampling(),
        )  # fmt: skip
        clips, refused = report.rows - len(report.refused), report.refused
        if self.json:
            print(strict_json(dataclasses.asdict(report)))
            return 0 if clips else 1
        print(f"wrote {report.out}: the clips of {clips} of {report.rows} rows ({report.known} were done before)")
        for number, reason in refused.items():
            print(f"row {number} is refused: {reason}")
        return 0 if clips else 1


@dataclass(frozen=True, kw_only=True)
class Continue(_Clip):
    """Continue a clip or session of reelm from its tokens, or any other video, gif or image by encoding it.

    Attributes:
        clip: The file to continue; the new file starts with it.
        prompt: The prompt of the continuation; the clip's own prompt unless given.
        num_videos_per_prompt: The number of continuations; several are written to out-1.mp4, out-2.mp4, ...
        fit: How a picture of another shape is fitted: crop unless given, and with --keep-source pad, so that the whole
            picture is continued.
        keep_source: Keep the clip at its own size and rate and with its sound; the new part is scaled up to it.
        detail: Keep the detail of the clip that the tokenizer loses, wherever the picture does not change.
        save_state: Save the session next to the clip, so that `reelm continue` need not read the clip's tokens again.
    """

    example = "reelm continue ball.mp4 --seconds 4 -o longer.mp4"
    clip: Annotated[Path, Option(positional=True)]
    prompt: str | None = None
    num_videos_per_prompt: int = 1
    fit: Literal["crop", "pad", "stretch"] | None = None
    keep_source: bool = False
    detail: bool = True
    save_state: bool = False

    def run(self) -> int:
        paths = self.paths(f"{self.clip.stem}-longer", self.num_videos_per_prompt, inputs=[self.clip])
        prompt, count, options = self.schedule(self.prompt), len(paths), self.arguments()
        config = self.check("continue_clip", prompt, num_videos_per_prompt=count)
        clip, kept = self.read(config.fps, paths)
        fit = kept.fit if kept is not None else self.fit or "crop"
        generator = self.load()
        with self.sessions(paths, save_state=self.save_state, inputs=[self.clip]) as sessions:
            videos = generator.continue_clip(
                clip, num_videos_per_prompt=count, prompt=prompt, fit=fit, detail=self.detail,
                callback_on_tokens=sessions.save, **options,
            )  # fmt: skip
            results = videos if kept is None else [kept.extend(video) for video in videos]
            files = [result.save(path, overwrite=self.overwrite) for result, path in zip(results, paths, strict=True)]
        self.print_video(files + sessions.kept, results[0])
        return 0

    def words_to_continue(self) -> list[str]:
        """Return the options that a continuation of the clip needs, so that it keeps its size too."""
        return super().words_to_continue() + (["--keep-source"] if self.keep_source else [])

    def read(self, fps: float, paths: list[str]) -> "tuple[Video | SessionState, KeptSource | None]":
        """Return the clip to continue, and with --keep-source what keeps it, after a check that this can be written.

        Args:
            fps: The frames per second of a folder of pictures: those of the model.
            paths: The files to write.
        """
        from ..generation.kept_source import KeptSource
        from ..generation.session import SessionState
        from ..generation.video import Video
        from ..media.sound import note_sound

        if self.keep_source:
            kept = KeptSource(self.clip, fps=fps, fit=self.fit)
            for path in paths:
                kept.check(path, overwrite=self.overwrite)
            return kept.clip, kept
        if self.clip.suffix == ".safetensors":
            return SessionState.load(self.clip), None
        note_sound(self.clip)
        return Video.load(self.clip, folder_fps=fps), None


@dataclass(frozen=True, kw_only=True)
class Decode(ModelCommand):
    """Decode a session, whose tokens were saved before their pixels, to a clip.

    Attributes:
        session: The session file, .safetensors.
        output: The file of the clip to write.
        overwrite: Replace a file that is not a clip of reelm.
    """

    example = "reelm decode ball.session.safetensors -o ball.mp4"
    session: Annotated[Path, Option(positional=True)]
    output: Output = None
    overwrite: bool = False

    def run(self) -> int:
        from ..generation.session import SessionState
        from ..media.writer import check_output

        path = free_name(self.session.stem.removesuffix(".session")) if self.output is None else self.output
        check_output(path, overwrite=self.overwrite, inputs=[self.session])
        state = SessionState.load(self.session)
        video = self.load().decode(state)
        video.save(path, overwrite=self.overwrite)
        values = {"files": [path], "frames": len(video.frames), "prompt": video.prompt, "seed": video.seed}
        count, height, width, _ = video.frames.shape
        summary = f"{count} frames {width}x{height} at {video.fps:.4g} fps = {video.seconds:.4g} s, seed {video.seed}"
        print(strict_json(values) if self.json else f"wrote {path}: {summary}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Stream(_Clip):
    """Write a clip of any length while it is generated; Ctrl-C ends it and keeps the frames generated so far.

    Attributes:
        prompt: The text that the clip shows.
        seconds: The length in seconds; the clip has no end unless given.
        output: The file to write, .mp4 or .mkv; the .partial file next to it can be played while it grows.
    """

    example = 'reelm stream "a blue ring spins" --seconds 60 -o ring.mp4'
    prompt: Prompt

    def run(self) -> int:
        from ..core.signals import stop_signals
        from ..generation.stream_file import write_stream
        from ..media.writer import ClipWriter

        path = free_name(_slug(self.prompt)) if self.output is None else self.output
        prompt = self.schedule(self.prompt)
        # Checks the path before the model is loaded, without opening a file.
        growing = ClipWriter(path, fps=1, overwrite=self.overwrite).growing
        self.check("stream", prompt)
        stream = self.load().stream(prompt, **self.arguments())
        with stop_signals() as stopped:
            note(f"writing {growing}; Ctrl-C ends it")
            clip = write_stream(
                stream, path, stop=lambda: bool(stopped), overwrite=self.overwrite, sessions=self.sessions([path])
            )
        if stopped:
            note(f"reelm: interrupted; {path} holds {clip.frames} frames = {clip.seconds:.4g} s")
        size = (clip.frames, clip.height, clip.width)
        self.print_clip([clip.path], clip, size, new_frames=clip.frames, tokens=clip.tokens, elapsed=clip.took_seconds)
        return 128 + stopped[0] if stopped else 0


def _slug(prompt: str) -> str:
    """Return the stem of a file name, from the first words of a prompt."""
    from ..lm.text import words_of

    return "-".join(words_of(prompt)[:12])[:60].strip("-") or "clip"
