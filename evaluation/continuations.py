"""Continuations of held-out clips, compared with the truth.

report = continue_held_out(generator, ClipShards("shards", "held-out"), Path("runs/lm"))
report["psnr"], report["psnr_of_the_tokens_alone"], report["psnr_of_the_last_frame_repeated"]

The baseline is the last given frame repeated, which is the best continuation of a still clip: a model that has learnt
motion exceeds it. Where the picture stands still, a continuation keeps the detail of the given frames (detail.py).
`psnr` measures the frames that a user sees, with this detail; `psnr_of_the_tokens_alone` measures them without it.
`evaluate model` (own_clips.py) continues clips by the same functions.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..core.controls import ControlTrack
from ..core.errors import require
from ..core.json_values import Json
from ..core.layout import Compression
from ..core.progress import progress
from ..data.clip_shards import ClipShards
from ..data.crops import centre_crop
from ..generation.generator import VideoGenerator
from ..generation.pretrained import controller_of
from ..generation.video import Video
from ..media.contact_sheet import write_contact_sheet
from ..media.writer import write_clip

COLUMNS = 6
PREDICTED = 8  # the default number of frames to continue by
MOST_DRAWN = 16  # clips in a picture: nobody looks at more, and all their frames stay in memory until it is drawn


@dataclass(frozen=True, eq=False)
class Continuation:
    """The beginning of a clip and its continuation by the model.

    Attributes:
        name: The name of the clip.
        given: The number of frames that the model was given.
        truth_THW3: The frames of the clip, uint8.
        shown_THW3: The given frames and the model's continuation, as long as the truth, as a user sees them: with the
            detail that is kept.
        plain_THW3: The frames decoded from the tokens alone, the given ones included; as long as the truth.
        made: The number of frames that the model generated, which are whole latent frames.
        stats: The statistics of the generation; see `Video`.
    """

    name: str
    given: int
    truth_THW3: np.ndarray
    shown_THW3: np.ndarray
    plain_THW3: np.ndarray
    made: int
    stats: dict[str, Any]

    def psnr(self, shown_THW3: np.ndarray) -> float:
        """Return the PSNR in dB over all frames after the given ones.

        Args:
            shown_THW3: The frames to compare with the truth, as many as it has; or one frame, which is repeated.
        """
        truth = self.truth_THW3[self.given :]
        shown = shown_THW3[self.given :] if len(shown_THW3) > 1 else np.broadcast_to(shown_THW3, truth.shape)
        error = np.square(shown.astype(np.float64) - truth).mean()
        return float(10 * np.log10(255**2 / max(error, 1e-6)))

    def figures(self) -> dict[str, float]:
        """Return the PSNR with kept detail, of the tokens alone, and of the last given frame repeated ("still")."""
        return {
            "psnr": self.psnr(self.shown_THW3), "psnr_of_the_tokens_alone": self.psnr(self.plain_THW3),
            "still": self.psnr(self.truth_THW3[self.given - 1][None]),
        }  # fmt: skip


def least_frames(compression: Compression, predicted: int = PREDICTED) -> int:
    """Return the least number of frames of a clip that can be continued by `predicted` frames and compared.

    Three latent frames are given, since one alone shows no motion.
    """
    return compression.frames(3) + predicted


def given_frames(generator: VideoGenerator) -> int:
    """Return the number of frames of a clip that the model is given for a continuation."""
    return least_frames(generator.parts.tokenizer.compression, 0)


class Whole(NamedTuple):
    """A clip whose beginning is continued.

    Attributes:
        name: Its name.
        clip: Its frames, of the model's size and rate, and its prompt.
        held: What was held during each of its pictures; None if it was not recorded.
    """

    name: str
    clip: Video
    held: ControlTrack | None = None


def continue_beginnings(
    generator: VideoGenerator, clips: Iterable[Whole], *, predicted: int, seed: int = 0
) -> Iterator[Continuation]:
    """Continue each clip from its first `given_frames` frames, under its prompt and what was held then."""
    given, played = given_frames(generator), bool(controller_of(generator.parts.config.lm))
    for name, clip, held in clips:
        truth = clip.frames[: given + predicted]
        beginning = Video(truth[:given], clip.fps, prompt=clip.prompt)
        keys = None if held is None or not played else held[given - 1 : given - 1 + predicted]
        video = generator.continue_clip(beginning, num_frames=predicted, seed=seed, keys=keys)
        assert video.state is not None  # continue_clip keeps it
        # The given frames are whole latent frames, so that the frames decoded from the tokens match the truth by index.
        shown, plain = (each.frames[: len(truth)] for each in (video, generator.decode(video.state)))
        yield Continuation(name, given, truth, shown, plain, len(video.frames) - given, video.stats)


def write_continuations(folder: Path, continuations: list[Continuation], fps: float) -> None:
    """Write continuations.png and continuations.mp4.

    The picture has two rows for each clip: the truth, and the given frames with their continuation. In the video they
    play side by side, the truth on the left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(each.truth_THW3, each.shown_THW3) for each in continuations]
    rows = torch.from_numpy(np.stack([clip for pair in pairs for clip in pair]))
    write_contact_sheet(folder / "continuations.png", rows, columns=COLUMNS, scale=1)
    write_clip(folder / "continuations.mp4", np.concatenate([np.concatenate(pair, 2) for pair in pairs]), fps)


def continue_held_out(
    generator: VideoGenerator, shards: ClipShards, folder: Path, *,
    predicted: int = PREDICTED, most: int = MOST_DRAWN, seed: int = 0,
) -> Json:  # fmt: skip
    """Continue the beginnings of held-out samples, and write them with the truth (see `write_continuations`).

    Args:
        generator: The model; its frame rate must be that of the shards.
        shards: The held-out samples; they are cropped to the model's size, and those that are too short are left out.
        folder: The folder for the picture and the video.
        predicted: The number of frames to continue by, which are compared.
        most: The largest number of samples.
        seed: The seed of the sampling.

    Returns:
        psnr, the PSNR in dB over all predicted frames as a user sees them, with the detail that is kept of the given
        ones, averaged over the samples; psnr_of_the_tokens_alone, the same without this detail;
        psnr_of_the_last_frame_repeated, the same of the last given frame; samples, these three of each sample; n, the
        number of samples, and left_out, that of the samples that were not continued; given_frames and
        predicted_frames; height, width and split.

    Raises:
        ReelmError: The model's pictures are larger than the samples, or no sample is long enough.
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

    def clips() -> Iterator[Whole]:
        for number in progress(chosen, "continuing", unit="clip"):
            sample = shards.samples[number]
            frames_THW3 = centre_crop(torch.from_numpy(shards.read(number, 0, least)), *size).numpy()
            clip = Video(frames_THW3, config.fps, prompt=(*sample.captions, "")[0])
            yield Whole(sample.source, clip, sample.controls)

    continuations = list(continue_beginnings(generator, clips(), predicted=predicted, seed=seed))
    write_continuations(folder, continuations, config.fps)
    figures = [each.figures() for each in continuations]
    return {
        "n": len(figures), "left_out": len(shards.samples) - len(chosen), "given_frames": least - predicted,
        "predicted_frames": predicted, "height": size[0], "width": size[1], "split": shards.split,
        **{key: float(np.mean([each[key] for each in figures])) for key in ("psnr", "psnr_of_the_tokens_alone")},
        "psnr_of_the_last_frame_repeated": float(np.mean([each["still"] for each in figures])),
        "samples": [{"source": each.name, **values} for each, values in zip(continuations, figures, strict=True)],
    }  # fmt: skip
