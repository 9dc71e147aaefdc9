"""The commands that make clips: generate, continue, stream, decode."""

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import tyro
from tyro.conf import Positional

from ..core.errors import require
from ..core.files import free_name, numbered_names
from ..core.progress import note
from .base import ModelCommand, strict_json

if TYPE_CHECKING:
    from ..generation.stream_file import StreamedClip
    from ..generation.video import Video

Prompt = Annotated[Positional[str], tyro.conf.arg(metavar="PROMPT")]
Output = Annotated[str | None, tyro.conf.arg(aliases=["-o"])]


def _sampling_options() -> type:
    from ..sampling.rules import SamplingConfig

    hint = tyro.conf.arg(help_behavior_hint="(default: the model's own)")
    # None is a value that top_k can have, so "the model's own" needs a name.
    fields = [
        (name, Annotated[kind | Literal["model"], hint], "model")
        for name, kind in get_type_hints(SamplingConfig).items()
    ]
    return dataclasses.make_dataclass("Sampling", fields, kw_only=True, namespace={"__doc__": SamplingConfig.__doc__})


@dataclass(frozen=True, kw_only=True)
class _Clip(ModelCommand):
    """Options of all commands that make clips.

    Attributes:
        seconds: how long, or how much longer; 2 unless given.
        num_frames: how long in frames, instead of seconds.
        seed: a whole number; the same seed gives the same clip. A random one unless given.
        negative_prompt: what guidance leads away from.
        then: how the prompt changes: "4: a blue ring spins" from second 4 on; may be given several times.
        decoder: sequential draws a token a pass, jacobi the same tokens in fewer passes; auto takes the faster.
            diagonal draws other tokens, a diagonal of the picture or a lattice at a time.
        block_size: tokens that jacobi looks at in a pass.
        output: the file to write; .mp4, .mkv, .gif, .webp, or no suffix for a folder of PNGs.
    """

    seconds: float | None = None
    num_frames: int | None = None
    seed: int | None = None
    negative_prompt: str | None = None
    then: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    decoder: Literal["auto", "sequential", "jacobi", "diagonal"] = "auto"
    block_size: int | None = None
    sampling: Annotated[Any, tyro.conf.arg(name="", constructor_factory=_sampling_options)]
    output: Output = None

    def arguments(self) -> dict[str, Any]:
        """The arguments that `generate`, `continue_clip` and `stream` share."""
        names = ("seconds", "num_frames", "seed", "negative_prompt", "decoder", "block_size")
        return {name: getattr(self, name) for name in names} | self.given_sampling()

    def prompts(self, prompt: str | None) -> Any:
        """The prompt, or its schedule where it changes."""
        if not self.then:
            return prompt
        require(prompt is not None, "then", "needs a prompt to begin with", self.then)
        schedule: list[tuple[float, str | None]] = [(0.0, prompt)]
        for entry in self.then:
            second, colon, text = entry.partition(":")
            try:
                schedule.append((float(second), text.strip()))
            except ValueError:
                colon = ""
            require(bool(colon), "then", "must be like '4: a blue ring spins'", entry)
        return schedule

    def given_sampling(self) -> dict[str, Any]:
        """The sampling options that are not left to the model."""
        return {name: value for name, value in vars(self.sampling).items() if value != "model"}

    def report(self, files: list[Path], video: "Video", made: int) -> None:
        """Print what was written, how long it took to make `made` frames, and how to go on."""
        took = sum(video.stats[f"{part}_seconds"] for part in ("read", "sample", "decode"))
        count, height, width, _ = video.frames.shape
        self.print_files(files, video, (count, height, width), made=made, tokens=video.stats["tokens"], took=took)

    def print_files(
        self, files: list[Path], clip: "Video | StreamedClip", size: tuple[int, int, int], *, made: int, tokens: int,
        took: float,
    ) -> None:  # fmt: skip
        """Print it of a clip of so many frames, rows and columns, whose `tokens` took `took` seconds."""
        count, height, width = size
        longer = "longer.mp4" if files[0].name != "longer.mp4" else "longer-2.mp4"
        model = [] if self.model == "world" else ["--model", self.model]
        go_on = shlex.join(["reelm", "continue", str(files[0]), "--seconds", "4", *model, "-o", longer])
        rates = {"tokens_per_second": tokens / took, "times_realtime": made / clip.fps / took}
        if self.json:
            values = {
                "files": files, "prompt": clip.prompt, "seed": clip.seed, "frames": count, "height": height,
                "width": width, "fps": clip.fps, "seconds": clip.seconds, "took_seconds": took, "tokens": tokens,
                **rates, "settings": clip.settings, "continue": go_on,
            }  # fmt: skip
            print(strict_json(values))
            return
        shown = f"{count} frames {width}x{height} at {clip.fps:.4g} fps = {clip.seconds:.4g} s, seed {clip.seed}"
        print(f"wrote {', '.join(map(str, files))}: {shown}")
        print("took {:.3g} s: {:.4g} tokens/s, {:.3g} times realtime".format(took, *rates.values()))
        print(f"go on with: {go_on}")


@dataclass(frozen=True, kw_only=True)
class Generate(_Clip):
    """Generate clips from a prompt.

    Attributes:
        prompt: what the clip shows.
        num_videos_per_prompt: how many samples; they are written to out-1.mp4, out-2.mp4, ...
        batch_size: clips at a time; all unless given.
        save_state: keep the session beside the clip, with which `reelm continue` goes on at once.
    """

    example = 'reelm generate "a red ball rolls to the right over grass" --seconds 2 --seed 7 -o ball.mp4'
    prompt: Prompt
    num_videos_per_prompt: int = 1
    batch_size: int | None = None
    save_state: bool = False

    def run(self) -> int:
        from ..generation.request import MAX_CLIPS
        from ..generation.session_files import SessionFiles
        from ..media.writer import check_output

        count = self.num_videos_per_prompt
        require(1 <= count <= MAX_CLIPS, "num_videos_per_prompt", f"must be from 1 to {MAX_CLIPS}", count)
        paths = numbered_names(self.output or free_name(_slug(self.prompt), count), count)
        for path in paths:
            check_output(path)
        with SessionFiles(paths, save_state=self.save_state) as sessions:
            videos = self.load().generate(
                self.prompts(self.prompt), num_videos_per_prompt=count, batch_size=self.batch_size,
                callback_on_tokens=sessions.save, **self.arguments(),
            )  # fmt: skip
            videos = videos if isinstance(videos, list) else [videos]
            files = [video.save(path) for video, path in zip(videos, paths, strict=True)]
        self.report(files + sessions.kept, videos[0], len(videos[0].frames))
        return 0


@dataclass(frozen=True, kw_only=True)
class Continue(_Clip):
    """Continue a clip or a session: one of reelm's from its own tokens, any other video, gif or image by encoding it.

    Attributes:
        clip: the file to continue; the new file starts with it.
        prompt: what is to come; the clip's own prompt unless given.
        fit: how a picture of another shape is fitted.
        detail: keep what the tokenizer loses of the clip where the picture stays as it was.
        save_state: keep the session beside the clip, with which `reelm continue` goes on at once.
    """

    example = "reelm continue ball.mp4 --seconds 4 -o longer.mp4"
    clip: Annotated[Positional[Path], tyro.conf.arg(metavar="CLIP")]
    prompt: str | None = None
    fit: Literal["crop", "pad", "stretch"] = "crop"
    detail: bool = True
    save_state: bool = False

    def run(self) -> int:
        from ..generation.session import SessionState
        from ..generation.session_files import SessionFiles
        from ..generation.video import Video
        from ..media.writer import check_output

        path = self.output or free_name(f"{self.clip.stem}-longer")
        check_output(path)
        clip = SessionState.load(self.clip) if self.clip.suffix == ".safetensors" else Video.load(self.clip)
        generator = self.load()
        with SessionFiles([path], save_state=self.save_state) as sessions:
            video = generator.continue_clip(
                clip, prompt=self.prompts(self.prompt), fit=self.fit, detail=self.detail,
                callback_on_tokens=sessions.save, **self.arguments(),
            )  # fmt: skip
            files = [video.save(path)]
        config = generator.parts.config
        added = video.stats["tokens"] // config.lm.layout.frame_size * config.tokenizer.temporal
        self.report(files + sessions.kept, video, added)
        return 0


@dataclass(frozen=True, kw_only=True)
class Decode(ModelCommand):
    """Make a clip of a session: of tokens that were saved before they became pixels.

    Attributes:
        session: the file, .safetensors.
        output: the clip to write.
    """

    example = "reelm decode ball.session.safetensors -o ball.mp4"
    session: Annotated[Positional[Path], tyro.conf.arg(metavar="SESSION")]
    output: Output = None

    def run(self) -> int:
        from ..generation.session import SessionState
        from ..media.writer import check_output

        path = self.output or free_name(self.session.stem.removesuffix(".session"))
        check_output(path)
        state = SessionState.load(self.session)
        video = self.load().decode(state)
        video.save(path)
        values = {"files": [path], "frames": len(video.frames), "prompt": video.prompt, "seed": video.seed}
        print(strict_json(values) if self.json else f"wrote {path}: {video!r}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Stream(_Clip):
    """Write a clip while it is made, for as long as you like: Ctrl-C ends it, and what there is by then is kept.

    Attributes:
        prompt: what the clip shows.
        seconds: how long; without an end unless given.
        output: the file to write, .mp4 or .mkv; its .partial file beside it can be played while it grows.
    """

    example = 'reelm stream "a blue ring spins" --seconds 60 -o ring.mp4'
    prompt: Prompt

    def run(self) -> int:
        from ..generation.stream_file import write_stream
        from ..media.writer import ClipWriter
        from ..training.loop import stop_signals

        path = self.output or free_name(_slug(self.prompt))
        growing = ClipWriter(path, fps=1).growing  # refuses the path before the model is loaded; no file is opened
        stream = self.load().stream(self.prompts(self.prompt), **self.arguments())
        with stop_signals() as stopped:
            note(f"writing {growing}; Ctrl-C ends it")
            clip = write_stream(stream, path, stop=lambda: bool(stopped))
        if stopped:
            note(f"reelm: interrupted; {path} holds {clip.frames} frames = {clip.seconds:.4g} s")
        size = (clip.frames, clip.height, clip.width)
        self.print_files([clip.path], clip, size, made=clip.frames, tokens=clip.tokens, took=clip.took_seconds)
        return 128 + stopped[0] if stopped else 0


def _slug(prompt: str) -> str:
    """A file's stem from the first words of a prompt."""
    from ..lm.text import words_of

    return "-".join(words_of(prompt)[:12])[:60].strip("-") or "clip"
