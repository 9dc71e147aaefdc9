"""Held-out ends of one's own clips, continued beside the truth: does the model know how its world goes on?

report = continue_held_out(generator, ClipShards("shards", "held-out"), Path("runs/lm"))
report["psnr"], report["psnr_of_the_tokens_alone"], report["psnr_of_the_last_frame_repeated"]

A clip that stands still is continued best by its last given frame: what is above that is what the model has learnt.
A continuation keeps the detail of what was given where the picture stands still (detail.py), and `psnr`, which is of
what a user sees, has it in it: `psnr_of_the_tokens_alone` has not. `evaluate model` (own_clips.py) continues clips by
the same functions.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import require
from ..core.progress import progress
from ..data.clip_shards import ClipShards
from ..data.crops import fitted
from ..generation.generator import VideoGenerator
from ..generation.video import Video
from ..media.contact_sheet import write_contact_sheet
from ..media.writer import write_clip

COLUMNS = 6
PREDICTED = 8  # frames to continue by, unless told otherwise
MOST_DRAWN = 16  # clips of a picture: more are not looked at, and all their frames are kept until it is drawn


@dataclass(frozen=True, eq=False)
class Continuation:
    """The beginning of a clip and how the model goes on.

    Attributes:
        name: of the clip.
        given: frames that the model was shown; they are the same in both.
        truth_THW3: the clip, uint8.
        shown_THW3: what was given and the model's continuation, as long as the truth, as a user sees it: with the
            detail that was kept.
        plain_THW3: what the tokens alone show, of the given frames too; as long as the truth.
        made: the frames that it has made, which are whole latent frames.
        stats: what it took; see `Video`.
    """

    name: str
    given: int
    truth_THW3: np.ndarray
    shown_THW3: np.ndarray
    plain_THW3: np.ndarray
    made: int
    stats: dict[str, Any]

    def psnr(self, shown_THW3: np.ndarray) -> float:
        """Decibels over all frames after the given ones; `shown_THW3` is as long as the truth, or one frame."""
        truth = self.truth_THW3[self.given :]
        shown = shown_THW3[self.given :] if len(shown_THW3) > 1 else np.broadcast_to(shown_THW3, truth.shape)
        error = np.square(shown.astype(np.float64) - truth).mean()
        return float(10 * np.log10(255**2 / max(error, 1e-6)))

    def figures(self) -> dict[str, float]:
        """PSNR of the continuation, of it without kept detail, and of the last given frame repeated ("still")."""
        return {
            "psnr": self.psnr(self.shown_THW3), "psnr_of_the_tokens_alone": self.psnr(self.plain_THW3),
            "still": self.psnr(self.truth_THW3[self.given - 1][None]),
        }  # fmt: skip


def least_frames(temporal: int, predicted: int = PREDICTED) -> int:
    """Frames of the shortest clip that can be continued by `predicted` frames and compared.

    Three latent frames of `temporal` frames each, but for the first, are given: one alone says nothing of motion.
    """
    return 1 + 2 * temporal + predicted


def given_frames(generator: VideoGenerator) -> int:
    """Frames that a continuation begins with."""
    return least_frames(generator.parts.tokenizer.compression.t, 0)


def continue_beginnings(
    generator: VideoGenerator, clips: Iterable[tuple[str, Video]], *, predicted: int, seed: int = 0
) -> Iterator[Continuation]:
    """Continue each clip, which is of the model's size and rate, from its first `given_frames` on, under its prompt."""
    given = given_frames(generator)
    for name, clip in clips:
        truth = clip.frames[: given + predicted]
        beginning = Video(truth[:given], clip.fps, prompt=clip.prompt)
        video = generator.continue_clip(beginning, num_frames=predicted, seed=seed)
        assert video.state is not None  # continue_clip keeps it
        # What is given is whole latent frames: all that the tokens show lies beside the truth.
        shown, plain = (made.frames[: len(truth)] for made in (video, generator.decode(video.state)))
        yield Continuation(name, given, truth, shown, plain, len(video.frames) - given, video.stats)


def write_continuations(folder: Path, continuations: list[Continuation], fps: float) -> None:
    """Write continuations.png, of each clip two rows, the truth and what was given with its continuation; and
    continuations.mp4, in which they play beside each other, the truth on the left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(each.truth_THW3, each.shown_THW3) for each in continuations]
    rows = torch.from_numpy(np.stack([clip for pair in pairs for clip in pair]))
    write_contact_sheet(folder / "continuations.png", rows, columns=COLUMNS, scale=1)
    write_clip(folder / "continuations.mp4", np.concatenate([np.concatenate(pair, 2) for pair in pairs]), fps)


def continue_held_out(
    generator: VideoGenerator, shards: ClipShards, folder: Path, *,
    predicted: int = PREDICTED, most: int = MOST_DRAWN, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Continue the beginnings of held-out samples, and write them beside the truth (see `write_continuations`).

    Args:
        generator: the model, of the shards' frame rate.
        shards: the held-out samples, made to fit the model's size; those that are too short are left out.
        folder: for the picture and the video.
        predicted: frames to continue by, which are compared.
        most: samples.
        seed: of the sampling.

    Returns:
        `psnr`, mean over the samples of the PSNR in dB over all predicted frames, as they are shown, which is with the
        detail that is kept of the given ones; `psnr_of_the_tokens_alone`, without it; the same for the last given
        frame, repeated; what each sample has of the three; how many were given, predicted and left out.

    Raises:
        ReelmError: the model is larger than the samples, or no sample is long enough.
    """
    config = generator.parts.config
    size = (config.height, config.width)
    for name, least, got in zip(("height", "width"), size, (shards.height, shards.width), strict=True):
        require(got >= least, "data", f"must have a {name} of at least {least}, which the model has", got)
    require(predicted >= 1, "predicted", "must be at least 1", predicted)
    least = given_frames(generator) + predicted
    longest = max((sample.frames for sample in shards.samples), default=0)
    require(longest >= least, "data", f"must have a sample of at least {least} frames", longest)
    chosen = [n for n, sample in enumerate(shards.samples) if sample.frames >= least][:most]

    def clips() -> Iterator[tuple[str, Video]]:
        for number in progress(chosen, "continuing", unit="clip"):
            told = shards.samples[number]
            frames_THW3 = fitted(torch.from_numpy(shards.read(number, 0, least)), *size).numpy()
            yield told.source, Video(frames_THW3, config.fps, prompt=(*told.captions, "")[0])

    continuations = list(continue_beginnings(generator, clips(), predicted=predicted, seed=seed))
    write_continuations(folder, continuations, config.fps)
    samples = [{"source": each.name, **each.figures()} for each in continuations]
    return {
        "n": len(samples), "left_out": len(shards.samples) - len(chosen), "given_frames": least - predicted,
        "predicted_frames": predicted, "height": size[0], "width": size[1], "split": shards.split,
        **{
            key: float(np.mean([sample[key] for sample in samples])) for key in ("psnr", "psnr_of_the_tokens_alone")
        },
        "psnr_of_the_last_frame_repeated": float(np.mean([sample["still"] for sample in samples])),
        "samples": samples,
    }  # fmt: skip
