"""Evaluation of a model on a user's clips: the likelihood of their tokens, and the model's continuations of them.

    report = evaluate_own_clips(generator, [("a.mp4", Video(frames, fps=8))], folder=Path("runs/evaluation"))
    report["nats_per_token"], report["psnr"], report["psnr_of_the_reconstructed_truth"]

A continuation is one sample of many, and so is the truth: PSNR says how near a continuation stays to the truth, and it
rewards blur. Two more figures bracket it: the PSNR of the last given frame repeated, which a model without any sense of
motion reaches, and that of the truth as the tokenizer reconstructs it, which bounds what tokens alone can reach. A
continuation can exceed the bound where the picture stands still, since it keeps the detail of the given frames
(detail.py): `psnr`, and all other figures of what a user sees, include that detail; `psnr_of_the_tokens_alone` does
not.
"""

import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import require
from ..core.json_values import Json
from ..core.layout import Compression
from ..core.progress import progress
from ..generation.generator import VideoGenerator
from ..generation.scoring import Score
from ..generation.video import Video
from ..tokenizer.long import decode_long, encode_long
from .continuations import (
    MOST_DRAWN,
    PREDICTED,
    Continuation,
    Whole,
    continue_beginnings,
    given_frames,
    write_continuations,
)  # fmt: skip
from .fvd import Fvd
from .reconstruction import flicker
from .warping import Warping, load_warping

FIGURES = (  # the figures of a continuation
    *("psnr", "psnr_of_the_tokens_alone", "psnr_of_the_last_frame_repeated", "psnr_of_its_reconstruction_repeated"),
    *("psnr_of_the_reconstructed_truth", "flicker", "flicker_of_the_reconstructed_truth", "warping_error"),
    *("warping_error_of_the_truth", "warping_trusted"),
)


def evaluate_own_clips(
    generator: VideoGenerator,
    clips: Iterable[tuple[str, Video]],
    *,
    predicted: int = PREDICTED,
    seed: int = 0,
    fvd_weights: Path | None = None,
    total: int | None = None,
    folder: Path | None = None,
) -> Json:
    """Score each clip under its prompt, and continue it from its first three latent frames.

    Args:
        generator: The model.
        clips: The clips, of the model's size and frame rate; a clip that is too short to be continued is only scored.
        predicted: The number of frames to continue by, which are compared.
        seed: The seed of the sampling.
        fvd_weights: The file of a network (see fvd.py), for FVD of the given and predicted frames.
        total: The number of clips, for the progress bar.
        folder: The folder for continuations.png and .mp4 of the first `MOST_DRAWN` continued clips, if given.

    Returns:
        n, the number of clips, with their scored frames (whole latent frames) and tokens; nats_per_token over all
        tokens, those of frame 0, and those of later frames; bits_per_dimension, the bits of the tokens per value of
        the frames (see `Score.bits_per_dimension`), which is the rate at which this model would compress the clip at
        the tokenizer's distortion, and not a likelihood of the pixels; continued, the number of clips that were long
        enough, and over these the mean PSNR in dB of the predicted frames: psnr, as a user sees them, with the detail
        that is kept of the given ones; psnr_of_the_tokens_alone, without it; psnr_of_the_last_frame_repeated;
        psnr_of_its_reconstruction_repeated; and psnr_of_the_reconstructed_truth; flicker and
        flicker_of_the_reconstructed_truth; warping_error and warping_error_of_the_truth (see `evaluate_clips`; the
        flow is the truth's, so that any other motion counts as error); sampling_frames_per_second, of sampling and
        decoding one clip at a time; these are None where nothing was continued; fvd if it has a network, None with
        fewer than two continued clips; the numbers of parameters; and clips, the figures of each clip.

    Raises:
        ReelmError: There is no clip; an argument is refused; scikit-image is not installed.
    """
    require(predicted >= 1, "predicted", "must be at least 1", predicted)
    require(0 <= seed < 2**63, "seed", "must be a whole number from 0 to 2**63 - 1", seed)
    parts, least = generator.parts, given_frames(generator) + predicted
    device = parts.tokenizer.device
    warping = load_warping()
    fvd = None if fvd_weights is None else Fvd(fvd_weights, frames=least, device=device)
    table: list[dict[str, Any]] = []
    scores: list[Score] = []
    drawn: list[Continuation] = []
    continued, made, seconds = 0, 0, 0.0
    for name, clip in progress(clips, "evaluating", unit="clip", total=total):
        scored = _whole_latent_frames(clip, parts.tokenizer.compression)
        scores.append(generator.score(scored))
        table.append({"name": name, "frames": len(scored.frames), "nats_per_token": scores[-1].nats_per_token})
        if len(clip.frames) >= least:
            (continuation,) = continue_beginnings(generator, [Whole(name, clip)], predicted=predicted, seed=seed)
            continued, made = continued + 1, made + continuation.made
            seconds += continuation.stats["sample_seconds"] + continuation.stats["decode_seconds"]
            if folder is not None and len(drawn) < MOST_DRAWN:
                drawn.append(continuation)
            table[-1] |= _figures(generator, continuation, warping)
            if fvd is not None:
                fvd.add(torch.from_numpy(continuation.truth_THW3), torch.from_numpy(continuation.shown_THW3))
        elif fvd is not None:
            fvd.left_out += 1
    require(bool(table), "clips", "must be at least one", 0)
    if folder is not None and drawn:
        write_continuations(folder, drawn, parts.config.fps)
    sizes = parts.sizes()
    return {
        "n": len(table), "frames": sum(entry["frames"] for entry in table), **_costs(scores),
        "continued": continued, "given_frames": least - predicted, "predicted_frames": predicted,
        **{key: _mean(table, key) for key in FIGURES},
        "sampling_frames_per_second": made / seconds if seconds else None,
        **({} if fvd is None else fvd.figures()),
        **{key: sizes[key] for key in ("tokenizer_parameters", "lm_parameters")}, "clips": [*table],
    }  # fmt: skip


def _figures(generator: VideoGenerator, continuation: Continuation, warping: Warping) -> dict[str, float | None]:
    """Return the `FIGURES` of one continuation."""
    tokenizer, truth = generator.parts.tokenizer, continuation.truth_THW3
    tokens = encode_long(tokenizer, iter(truth))
    parts = decode_long(tokenizer, tokens, height=truth.shape[1], width=truth.shape[2], num_frames=len(truth))
    rebuilt_THW3 = torch.cat(list(parts)).cpu().numpy()
    last = continuation.given - 1  # the motion into the first predicted frame counts, too
    true, shown, rebuilt = (torch.from_numpy(clip[last:]) for clip in (truth, continuation.shown_THW3, rebuilt_THW3))
    figures = continuation.figures()
    return {
        "psnr": figures["psnr"], "psnr_of_the_tokens_alone": figures["psnr_of_the_tokens_alone"],
        "psnr_of_the_last_frame_repeated": figures["still"],
        "psnr_of_its_reconstruction_repeated": continuation.psnr(rebuilt_THW3[last][None]),
        "psnr_of_the_reconstructed_truth": continuation.psnr(rebuilt_THW3),
        "flicker": flicker(true, shown), "flicker_of_the_reconstructed_truth": flicker(true, rebuilt),
        **warping(true, shown),
    }  # fmt: skip


def _costs(scores: list[Score]) -> dict[str, float | int | None]:
    """Return the figures of the scores over all tokens of all clips, so that a long clip counts for more."""
    first, later = (
        np.concatenate([score.nats_thw[part].ravel() for score in scores]).astype(np.float64)
        for part in (slice(0, 1), slice(1, None))
    )
    nats, tokens = float(first.sum() + later.sum()), len(first) + len(later)
    return {
        "tokens": tokens, "nats_per_token": nats / tokens, "nats_per_token_of_frame_0": float(first.mean()),
        "nats_per_token_of_later_frames": float(later.mean()) if len(later) else None,
        "bits_per_dimension": nats / math.log(2) / sum(score.dimensions for score in scores),
    }  # fmt: skip


def _whole_latent_frames(clip: Video, compression: Compression) -> Video:
    """Return the clip without the last frames that do not fill a latent frame, unless it is shorter than the first."""
    count = compression.whole(len(clip.frames)) or len(clip.frames)
    return Video(clip.frames[:count], clip.fps, prompt=clip.prompt)


def _mean(table: list[dict[str, Any]], key: str) -> float | None:
    known = [entry[key] for entry in table if entry.get(key) is not None]
    return statistics.mean(known) if known else None
