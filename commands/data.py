"""The commands that turn your own clips into training data: prepare, encode."""

import dataclasses
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from .base import BatchCommand, config_options
from .parser import Option

if TYPE_CHECKING:
    from ..data.prepare import Report

SOME_SKIPPED = 3  # the exit code of `prepare` if some clips could not be used


def _prepare_options() -> type:
    from ..data.recode import PrepareConfig

    return config_options(PrepareConfig)


def _windows_options() -> type:
    from ..data.encode import Windows

    return config_options(Windows)


@dataclass(frozen=True, kw_only=True)
class Prepare(BatchCommand):
    """Make training shards from a folder of videos, gifs and images, with their captions.

    The exit code 3 means that some clips could not be used; report.json lists them with the reasons.

    Attributes:
        folder: The folder to search, with its subfolders. The caption of a clip is name.txt or name.json ("caption") in
            the folder of the clip.
        out: The folder of the shards. An interrupted run is continued, and finished shards are kept.
        workers: The number of processes, one for each CPU unless given; with 0 the clips are prepared in this process.
        rank: The index of this machine, from 0.
        world_size: The number of machines that share the work, each with the same folders.
    """

    example = "reelm prepare my_clips --out shards --height 128 --width 128"
    folder: Annotated[Path, Option(positional=True)]
    out: Path
    workers: int | None = None
    rank: int = 0
    world_size: int = 1
    config: Annotated[Any, Option(group=_prepare_options, prefixed=False)]

    def run(self) -> int:
        from ..core.config import from_dict
        from ..data.prepare import prepare
        from ..data.recode import PrepareConfig

        config, ray = (
            from_dict(PrepareConfig, dataclasses.asdict(self.config), "options"),
            self.ray_options(["address"]),
        )
        report = prepare(
            self.folder, self.out, config, workers=self.workers, rank=self.rank, world_size=self.world_size, ray=ray
        )
        print(summary(report))
        return SOME_SKIPPED if report.skipped else 0


def summary(report: "Report") -> str:
    """Return a text of the samples that were written, of what became of each file, and the report's path."""
    (train, train_frames), (held_out, held_out_frames) = report.count("train"), report.count("held-out")
    megabytes = sum(shard.tar_bytes for shard in report.shards.values()) / 1e6
    used, shards = report.files - len(report.skipped), _counted(len(report.shards), "shard")
    rate = "" if report.fps is None else f", {report.fps:g} frames a second"
    stills = f", {_counted(report.stills, 'still')} among them" if report.stills else ""
    lines = [
        f"wrote {report.path.parent}: {used} of {_counted(report.files, 'clip')} in {shards}, {megabytes:.1f} MB"
        f"{rate}{stills}: {_counted(train, 'sample')} to train on ({train_frames} frames), "
        f"{held_out} held out ({held_out_frames} frames)"
    ]
    controlled, names = report.controls()
    if controlled:
        lines.append(f"{controlled} of them with controls: {', '.join(names) or 'nothing was ever held'}")
    # A reason is "argument: rule, got value". Files are counted by the part before the value, which many share.
    rules = Counter(reason.split(", got ")[0] for _, reason in report.skipped)
    if rules:
        lines.append(f"skipped {len(report.skipped)}:")
        lines += [f"  {count} {rule}" for rule, count in rules.most_common()]
    lines += _noted(report.notes)
    for count, what, names in (
        (len(report.ignored), "whose names are not those of clips", report.ignored),
        (len(report.made_here), "that reelm made", [f"{name}/" for name in report.made_here]),
    ):
        if count:
            lines.append(f"ignored {count} {what}: {', '.join(names[:3])}{', ...' if count > 3 else ''}")
    sheet = report.path.with_name(report.path.name.replace("report", "samples")).with_suffix(".png")
    return "\n".join([*lines, f"see {report.path} and {sheet}" if sheet.exists() else f"see {report.path}"])


def _noted(notes: list[tuple[str, str]]) -> list[str]:
    """Return a line for each kind of note; notes that differ in their numbers alone are of one kind."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for name, text in notes:
        kinds.setdefault(re.sub(r"\d[\d.,]*", "N", text), []).append((name, text))
    return [
        f"note: {name}: {text}" + (f" (and {len(others)} more like it)" if others else "")
        for (name, text), *others in kinds.values()
    ]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@dataclass(frozen=True, kw_only=True)
class Encode(BatchCommand):
    """Encode prepared clips to token shards, the training data of a language model.

    Attributes:
        shards: The folder of clip shards that reelm prepare made.
        tokenizer: The folder of a trained tokenizer.
        out: The folder of the token shards; existing ones are kept.
        split: The split to encode: train or held-out.
        rank: The index of this machine, from 0.
        world_size: The number of machines that share the work, each with the same folders.
        device: The device to compute on: auto, cpu or cuda[:n].
    """

    example = "reelm encode shards --tokenizer runs/tokenizer --out tokens --num-frames 17 --stride 4"
    shards: Annotated[Path, Option(positional=True)]
    tokenizer: Path
    out: Path
    split: str = "train"
    rank: int = 0
    world_size: int = 1
    device: str = "auto"
    windows: Annotated[Any, Option(group=_windows_options, prefixed=False)]

    def run(self) -> int:
        from ..core.config import from_dict
        from ..data.encode import Windows
        from ..data.token_recipes import encode_clips

        windows = from_dict(Windows, dataclasses.asdict(self.windows), "options")
        report = encode_clips(
            self.shards, self.tokenizer, self.out, split=self.split, rank=self.rank, world_size=self.world_size,
            device=self.device, windows=windows, ray=self.ray_options(),
        )  # fmt: skip
        print(f"wrote {report.folder}: {_counted(report.clips, 'crop')} of {report.num_frames} frames")
        return 0
