"""Evaluation of a tokenizer on clips: similarity, motion, codes, seams and speed.

    report = evaluate_clips(tokenizer, [("a.mp4", frames_THW3)], contact_sheet=Path("sheet.png"))
    report["psnr"], report["ssim"], report["warping_error"], report["border_gap"]

The metrics are in modules of their own: similarity.py (SSIM, MS-SSIM, LPIPS), warping.py and fvd.py. Nothing is
downloaded: LPIPS and FVD are measured only where the user gives their networks.
"""

import math
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..core.errors import require
from ..core.json_values import Json
from ..core.progress import progress
from ..core.protocols import AnyCodec
from ..media.contact_sheet import write_contact_sheet
from ..tokenizer.codecs import count_parameters
from ..tokenizer.long import decode_long, encode_long
from .fvd import USUAL_FRAMES, Fvd
from .reconstruction import flicker, frame_psnr, reconstruction_rows
from .similarity import load_similarity
from .warping import load_warping

STREAMED = 4  # latent frames that are made both at once and one by one, to be compared
GFLOPS_CLIP = (17, 128, 128)  # frames, rows and columns of the clip whose GFLOPs are counted, as in published tables
MOST_SHOWN = 8  # clips on the contact sheet
NOT_FIGURES = ("name", "frames", "height", "width")  # the keys in the entry of a clip that are no figures


@torch.no_grad()
def evaluate_clips(
    tokenizer: AnyCodec,
    clips: Iterable[tuple[str, torch.Tensor]],
    *,
    chunk: int = 4,
    contact_sheet: Path | None = None,
    lpips_weights: Path | None = None,
    fvd_weights: Path | None = None,
    fvd_frames: int = USUAL_FRAMES,
) -> Json:
    """Encode and decode clips, `chunk` latent frames at a time, and measure their reconstructions.

    Args:
        tokenizer: The tokenizer to measure.
        clips: The name and frames (T, H, W, 3) uint8 of each clip; they are read once.
        chunk: The number of latent frames between two borders.
        contact_sheet: The PNG file for truth, reconstruction and their difference, if given.
        lpips_weights, fvd_weights: The files of networks; see lpips.py and fvd.py.
        fvd_frames: The number of first frames of each clip that FVD uses.

    Returns:
        n, and means over the clips: psnr in dB (mean over frames), ssim, ms_ssim (None below 176 pixels a side), lpips
        if it has a network, flicker (the mean error, out of 255, of the change from a frame to the next), warping_error
        and warping_error_of_the_truth (see warping.py), border_gap (the PSNR in dB that the latent frame after a border
        loses by the border; None where clips are too short); streaming_error, the largest difference of pixels in
        [0, 1] between decoding latent frame by latent frame and decoding at once, and streaming_tokens, the number of
        tokens that differ in the same way; codebook_use, perplexity, bits_per_token (log2 of the number of codes),
        bits_per_pixel; the frames per second of encoding and decoding; fvd with its n and frames, if it has a network
        (None with fewer than two clips that are long enough); parameters; the GFLOPs for 17 frames of 128x128; and
        clips, the name, frames, height, width and figures of each clip.

    Raises:
        ReelmError: There is no clip; an argument is refused; scikit-image is not installed.
    """
    require(chunk >= 1, "chunk", "must be at least 1", chunk)
    device = tokenizer.device
    similarity, warping = load_similarity(lpips_weights, device=device), load_warping()
    fvd = None if fvd_weights is None else Fvd(fvd_weights, frames=fvd_frames, device=device)
    table: list[dict[str, Any]] = []
    rows: list[torch.Tensor] = []
    used, gaps, seconds, errors, tokens_off = [], list[float](), [0.0, 0.0], [0.0], 0
    for name, frames_THW3 in progress(clips, "evaluating", unit="clip"):
        count, height, width, _ = frames_THW3.shape
        start = time.perf_counter()
        tokens_thw = torch.cat(list(encode_long(tokenizer, iter(frames_THW3), chunk=chunk)))
        encoded = time.perf_counter()
        parts = decode_long(tokenizer, tokens_thw.split(chunk), height=height, width=width, num_frames=count)
        shown_THW3 = torch.cat(list(parts)).cpu()
        seconds = [seconds[0] + encoded - start, seconds[1] + time.perf_counter() - encoded]
        psnr_T = frame_psnr(frames_THW3, shown_THW3)
        gaps += _border_gaps(tokenizer, frames_THW3, psnr_T, chunk)
        table.append({
            "name": name, "frames": count, "height": height, "width": width, "psnr": float(psnr_T.mean()),
            "flicker": flicker(frames_THW3, shown_THW3), **similarity(frames_THW3, shown_THW3),
            **warping(frames_THW3, shown_THW3),
        })  # fmt: skip
        if fvd is not None:
            fvd.add(frames_THW3, shown_THW3)
        used.append(tokens_thw.flatten().cpu())
        error, differing = _streaming(tokenizer, frames_THW3[: tokenizer.compression.frames(1 + STREAMED)])
        errors.append(error)
        tokens_off += differing
        if len(rows) < MOST_SHOWN:
            rows.append(reconstruction_rows(frames_THW3, shown_THW3))
    require(bool(table), "clips", "must be at least one", 0)
    if contact_sheet is not None:
        _write_sheet(contact_sheet, rows)
    frames = sum(entry["frames"] for entry in table)
    return {
        "n": len(table), "frames": frames, "chunk_latent_frames": chunk,
        **{key: _mean(entry[key] for entry in table) for key in table[0] if key not in NOT_FIGURES},
        "border_gap": _mean(gaps),
        "streaming_error": max(errors), "streaming_tokens": tokens_off,
        **_codes(torch.cat(used), tokenizer.vocab_size, table),
        "encode_frames_per_second": frames / seconds[0], "decode_frames_per_second": frames / seconds[1],
        **({} if fvd is None else fvd.figures()),
        "parameters": count_parameters(tokenizer.config),
        **count_gflops(tokenizer), "clips": [*table],
    }  # fmt: skip


def _border_gaps(tokenizer: AnyCodec, frames_THW3: torch.Tensor, psnr_T: torch.Tensor, chunk: int) -> list[float]:
    """Return the loss of PSNR in dB by each border: that of the latent frame after it.

    The reference is the same latent frame where chunks are twice as long: there is no border before it then, and all
    else is the same. Only the first four chunks of a clip are measured.
    """
    side, (_, height, width, _) = tokenizer.compression, frames_THW3.shape
    frames_THW3 = frames_THW3[: side.frames(4 * chunk)]
    tokens_thw = torch.cat(list(encode_long(tokenizer, iter(frames_THW3), chunk=2 * chunk)))
    parts = tokens_thw.split(2 * chunk)
    shown = decode_long(tokenizer, parts, height=height, width=width, num_frames=len(frames_THW3))
    without_T = frame_psnr(frames_THW3, torch.cat(list(shown)).cpu())
    spans = [slice(side.frames(latent), side.frames(latent + 1)) for latent in (chunk, 3 * chunk)]
    return [float((without_T[at] - psnr_T[: len(without_T)][at]).mean()) for at in spans if at.start < len(without_T)]


def _codes(ids: torch.Tensor, vocab_size: int, table: list[dict[str, Any]]) -> dict[str, float]:
    """Return how evenly the codes are used, and their bits."""
    shares = torch.bincount(ids, minlength=vocab_size) / len(ids)
    bits, pixels = math.log2(vocab_size), sum(entry["frames"] * entry["height"] * entry["width"] for entry in table)
    return {
        "codebook_use": float((shares > 0).float().mean()),
        "perplexity": math.exp(float(torch.special.entr(shares).sum())),
        "bits_per_token": bits, "bits_per_pixel": bits * len(ids) / pixels,
    }  # fmt: skip


def count_gflops(tokenizer: AnyCodec) -> dict[str, float]:
    """Return the GFLOPs of encoding and of decoding 128x128; a multiply-add counts as two operations.

    The clip has 17 frames, or as many more as whole latent frames need.
    """
    device, (count, height, width) = tokenizer.device, GFLOPS_CLIP
    frames = tokenizer.compression.frames(tokenizer.compression.latent_frames(count))
    with FlopCounterMode(display=False) as encoding:
        tokens, _ = tokenizer.encode_chunk(torch.zeros(1, frames, height, width, 3, device=device), None)
    with FlopCounterMode(display=False) as decoding:
        tokenizer.decode_chunk(tokens, None)
    return {
        "encode_gflops": encoding.get_total_flops() / 1e9, "decode_gflops": decoding.get_total_flops() / 1e9,
    }  # fmt: skip


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _streaming(tokenizer: AnyCodec, frames_THW3: torch.Tensor) -> tuple[float, int]:
    """Return the largest pixel difference and the number of differing tokens between streaming and coding at once."""
    device = tokenizer.device
    whole = [torch.cat(list(encode_long(tokenizer, iter(frames_THW3), chunk=chunk))) for chunk in (STREAMED, 1)]
    tokens_Bthw = whole[0][None].to(device)
    at_once, state, parts = tokenizer.decode_chunk(tokens_Bthw, None)[0], None, []
    for latent in tokens_Bthw.split(1, 1):
        frames, state = tokenizer.decode_chunk(latent, state)
        parts.append(frames)
    return float((torch.cat(parts, 1) - at_once).abs().max()), int((whole[0] != whole[1]).sum())


def _write_sheet(path: Path, rows: list[torch.Tensor]) -> None:
    """Write the rows of all clips as one contact sheet, each cut to the smallest height and width."""
    height, width = (min(row.shape[axis] for row in rows) for axis in (2, 3))
    cut = torch.cat([row[:, :, :height, :width] for row in rows])
    write_contact_sheet(path, cut, columns=cut.shape[1], scale=1 if height > 96 else 2)
