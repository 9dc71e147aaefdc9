"""How well a model knows clips of one's own: what their tokens cost it, and how it continues them.

    report = evaluate_own_clips(generator, [("a.mp4", Video(frames, fps=8))], folder=Path("runs/evaluation"))
    report["nats_per_token"], report["psnr"], report["psnr_of_the_reconstructed_truth"]

A continuation is drawn from a distribution, and the truth is one of many: PSNR says how far it stays with the truth,
and rewards what is blurred. So it stands between two others: the last given frame repeated (what a model that knows no
motion does), and the truth as the tokenizer gives it back, which is as near as tokens alone come. A continuation can
pass it where the picture stands still, since it keeps the detail of what was given (detail.py): `psnr`, and all else
that is of what a user sees, has that detail in it, and `psnr_of_the_tokens_alone` has not.
"""

import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import require
from ..core.progress import progress
from ..generation.generator import VideoGenerator
from ..generation.scoring import Score
from ..generation.video import Video
from ..tokenizer.long import decode_long, encode_long
from .continuations import MOST_DRAWN, PREDICTED, Continuation, continue_beginnings, given_frames, write_continuations
from .fvd import Fvd
from .reconstruction import flicker
from .warping import Warping, load_warping

FIGURES = (  # of a continuation
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
    folder: Path | None = None,
) -> dict[str, Any]:
    """Score each clip under its prompt, and continue it from its first three latent frames.

    Args:
        generator: the model.
        clips: of the model's size and frame rate; what is shorter than the given and predicted frames is scored only.
        predicted: frames to continue by, which are compared.
        seed: of the sampling.
        fvd_weights: a TorchScript network (see fvd.py), for FVD of the given and predicted frames.
        folder: for continuations.png and .mp4 of the first `MOST_DRAWN` clips that were continued, if given.

    Returns:
        n clips, their scored frames (whole latent frames) and tokens; nats_per_token over all tokens, and over those
        of frame 0 and of the others; bits_per_dimension: those of the tokens for each value of the frames that they
        stand for (see `Score.bits_per_dimension`), which is the rate at which this model would compress the clip, at
        the tokenizer's distortion, and no likelihood of the pixels;
        continued, how many clips were long enough, and of these, means in dB over all predicted frames: psnr,
        as they are shown, with the detail that is kept of the given ones, and psnr_of_the_tokens_alone, without it;
        psnr_of_the_last_frame_repeated, psnr_of_its_reconstruction_repeated, psnr_of_the_reconstructed_truth; flicker
        beside that of the reconstructed truth, warping_error beside warping_error_of_the_truth (see `evaluate_clips`;
        the flow is the truth's, so that other motion counts as error); sampling_frames_per_second, of drawing and
        decoding the new frames of one clip at a time; None where nothing was continued; fvd if it has a network,
        None of fewer than two that were continued; parameters; and of each clip its own figures.

    Raises:
        ReelmError: there is no clip; an argument is refused; scikit-image is not installed.
    """
    require(predicted >= 1, "predicted", "must be at least 1", predicted)
    require(0 <= seed < 2**63, "seed", "must be a whole number from 0 to 2**63 - 1", seed)
    parts, least = generator.parts, given_frames(generator) + predicted
    device = next(parts.tokenizer.parameters()).device
    warping = load_warping()
    fvd = None if fvd_weights is None else Fvd(fvd_weights, frames=least, device=device)
    table: list[dict[str, Any]] = []
    scores: list[Score] = []
    drawn: list[Continuation] = []
    continued, made, seconds = 0, 0, 0.0
    for name, clip in progress(clips, "evaluating", unit="clip"):
        whole = _whole(clip, parts.tokenizer.compression.t)
        scores.append(generator.score(whole))
        table.append({"name": name, "frames": len(whole.frames), "nats_per_token": scores[-1].nats_per_token})
        if len(clip.frames) >= least:
            (continuation,) = continue_beginnings(generator, [(name, clip)], predicted=predicted, seed=seed)
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
        **{key: sizes[key] for key in ("tokenizer_parameters", "lm_parameters")}, "clips": table,
    }  # fmt: skip


def _figures(generator: VideoGenerator, continuation: Continuation, warping: Warping) -> dict[str, float | None]:
    """`FIGURES` of one continuation."""
    tokenizer, truth = generator.parts.tokenizer, continuation.truth_THW3
    tokens = encode_long(tokenizer, iter(truth))
    parts = decode_long(tokenizer, tokens, height=truth.shape[1], width=truth.shape[2], num_frames=len(truth))
    rebuilt = torch.cat(list(parts)).cpu().numpy()
    last = continuation.given - 1  # motion into the first predicted frame counts, too
    true, shown, back = (torch.from_numpy(clip[last:]) for clip in (truth, continuation.shown_THW3, rebuilt))
    told = continuation.figures()
    return {
        "psnr": told["psnr"], "psnr_of_the_tokens_alone": told["psnr_of_the_tokens_alone"],
        "psnr_of_the_last_frame_repeated": told["still"],
        "psnr_of_its_reconstruction_repeated": continuation.psnr(rebuilt[last][None]),
        "psnr_of_the_reconstructed_truth": continuation.psnr(rebuilt),
        "flicker": flicker(true, shown), "flicker_of_the_reconstructed_truth": flicker(true, back),
        **warping(true, shown),
    }  # fmt: skip


def _costs(scores: list[Score]) -> dict[str, float | int | None]:
    """Over all tokens of all clips, so that a long clip counts for more."""
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


def _whole(clip: Video, temporal: int) -> Video:
    """The clip without the frames at its end that fill no latent frame."""
    return Video(clip.frames[: 1 + (len(clip.frames) - 1) // temporal * temporal], clip.fps, prompt=clip.prompt)


def _mean(table: list[dict[str, Any]], key: str) -> float | None:
    known = [entry[key] for entry in table if entry.get(key) is not None]
    return statistics.mean(known) if known else None
