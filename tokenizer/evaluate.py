"""How good a tokenizer is on clips: likeness, codes, seams, speed.

    report = evaluate_clips(tokenizer, [("a.mp4", frames_THWC)], contact_sheet=Path("sheet.png"))
    report["psnr"], report["ssim"], report["border_gap"]

SSIM and MS-SSIM are torchmetrics' (the `metrics` extra; Wang et al. 2003 and 2004), of each frame in RGB. Nothing is
downloaded: metrics that need a network (LPIPS, FVD) are not among them.
"""

import math
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..core.contact_sheet import write_contact_sheet
from ..core.errors import ReelmError, require
from ..core.progress import progress
from .held_out import frame_psnr, reconstruction_rows
from .long import decode_long, encode_long
from .model import VideoTokenizer

AT_LEAST = 176  # pixels along a side: the fifth scale of MS-SSIM must still hold its window of 11
WINDOW = 11  # of SSIM
STREAMED = 4  # latent frames that are made at once and one by one, to be compared
COUNTED = (17, 128, 128)  # the clip whose GFLOPs are told, as in others' tables
MOST_ROWS = 8  # clips on the contact sheet


@torch.no_grad()
def evaluate_clips(
    tokenizer: VideoTokenizer,
    clips: Iterable[tuple[str, torch.Tensor]],
    *,
    chunk: int = 4,
    contact_sheet: Path | None = None,
) -> dict[str, Any]:
    """Encode and decode each (name, frames (T, H, W, 3) uint8), `chunk` latent frames at a time.

    Args:
        tokenizer: to be judged.
        clips: gone through once.
        chunk: latent frames between two borders.
        contact_sheet: a PNG of truth, reconstruction and their difference, if given.

    Returns:
        n, and means over the clips: psnr in dB (mean over frames), ssim, ms_ssim (None below 176 pixels a side),
        flicker (the mean error, of 255, of the change from a frame to the next), border_gap (dB by which frames after a
        border are worse than those at the same place in the latent frames around; None where clips are too short);
        streaming_error, the largest difference of pixels in [0, 1] that are made chunk by chunk from those made at
        once, and streaming_tokens, how many tokens differ so; codebook_use, perplexity, bits_per_token (log2 of the
        codes), bits_per_pixel; frames a second of encoding and decoding; parameters; gflops for 17 frames of 128x128;
        and of each clip name, frames, height, width, psnr and ssim.

    Raises:
        ReelmError: there is no clip, torchmetrics is not installed, or `chunk` is out of its range.
    """
    require(chunk >= 1, "chunk", "must be at least 1", chunk)
    likeness = _likeness()
    table: list[dict[str, Any]] = []
    rows: list[torch.Tensor] = []
    used, gaps, seconds, errors, tokens_off = [], list[float](), [0.0, 0.0], [0.0], 0
    temporal = tokenizer.compression.t
    for name, frames_THWC in progress(clips, "evaluating", unit="clip"):
        count, height, width, _ = frames_THWC.shape
        began = time.perf_counter()
        tokens_thw = torch.cat(list(encode_long(tokenizer, iter(frames_THWC), chunk=chunk)))
        encoded = time.perf_counter()
        parts = decode_long(tokenizer, tokens_thw.split(chunk), height=height, width=width, num_frames=count)
        shown_THWC = torch.cat(list(parts)).cpu()
        seconds = [seconds[0] + encoded - began, seconds[1] + time.perf_counter() - encoded]
        psnr_T = frame_psnr(frames_THWC, shown_THWC)
        after = psnr_T[1::temporal]  # the first frame of every latent frame but frame 0
        if chunk > 1:  # beside the same frame of the latent frames before and after, where no border is
            gaps += [
                float(after[[at - 1, at + 1]].mean() - after[at]) for at in range(chunk - 1, len(after) - 1, chunk)
            ]
        change = (shown_THWC.float().diff(dim=0) - frames_THWC.float().diff(dim=0)).abs()
        entry = {
            "name": name, "frames": count, "height": height, "width": width, "psnr": float(psnr_T.mean()),
            "flicker": float(change.mean()) if count > 1 else None, **likeness(frames_THWC, shown_THWC),
        }  # fmt: skip
        table.append(entry)
        used.append(tokens_thw.flatten().cpu())
        error, differing = _streaming(tokenizer, frames_THWC[: 1 + STREAMED * temporal])
        errors.append(error)
        tokens_off += differing
        if len(rows) < MOST_ROWS:
            rows.append(reconstruction_rows(frames_THWC, shown_THWC))
    require(bool(table), "clips", "must be at least one", 0)
    if contact_sheet is not None:
        _write_sheet(contact_sheet, rows)
    ids = torch.cat(used)
    shares = torch.bincount(ids, minlength=tokenizer.vocab_size) / len(ids)
    bits, frames = math.log2(tokenizer.vocab_size), sum(entry["frames"] for entry in table)
    pixels = sum(entry["frames"] * entry["height"] * entry["width"] for entry in table)
    return {
        "n": len(table), "frames": frames, "chunk_latent_frames": chunk,
        **{key: _mean(entry[key] for entry in table) for key in ("psnr", "ssim", "ms_ssim", "flicker")},
        "border_gap": _mean(gaps),
        "streaming_error": max(errors), "streaming_tokens": tokens_off,
        "codebook_use": float((shares > 0).float().mean()),
        "perplexity": math.exp(float(torch.special.entr(shares).sum())),
        "bits_per_token": bits, "bits_per_pixel": bits * len(ids) / pixels,
        "encode_frames_per_second": frames / seconds[0], "decode_frames_per_second": frames / seconds[1],
        "parameters": sum(parameter.numel() for parameter in tokenizer.parameters()),
        **count_gflops(tokenizer), "clips": table,
    }  # fmt: skip


def count_gflops(tokenizer: VideoTokenizer) -> dict[str, float]:
    """GFLOPs of encoding and decoding 17 frames of 128x128, a multiply-add counted as two."""
    device, (count, height, width) = next(tokenizer.parameters()).device, COUNTED
    frames = tokenizer.compression.frames(tokenizer.compression.latent_frames(count))
    with FlopCounterMode(display=False) as encoding:
        tokens = tokenizer.encode(torch.zeros(1, frames, height, width, 3, device=device))
    with FlopCounterMode(display=False) as decoding:
        tokenizer.decode(tokens)
    return {
        "encode_gflops": encoding.get_total_flops() / 1e9, "decode_gflops": decoding.get_total_flops() / 1e9,
    }  # fmt: skip


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _likeness() -> Any:
    """A function of truth and reconstruction that tells SSIM and MS-SSIM."""
    try:
        from torchmetrics.functional.image import (
            multiscale_structural_similarity_index_measure,
            structural_similarity_index_measure,
        )
    except ImportError as error:
        raise ReelmError("evaluate: needs torchmetrics: pip install 'reelm[metrics]'") from error

    def likeness(frames_THWC: torch.Tensor, shown_THWC: torch.Tensor) -> dict[str, float | None]:
        side = min(frames_THWC.shape[1:3])
        values: dict[str, float | None] = {"ssim": None, "ms_ssim": None}
        pairs = [
            [part.float().movedim(-1, 1) / 255 for part in pair]
            for pair in zip(shown_THWC.split(16), frames_THWC.split(16), strict=True)
        ]
        functions = {"ssim": (structural_similarity_index_measure, WINDOW),
                     "ms_ssim": (multiscale_structural_similarity_index_measure, AT_LEAST)}  # fmt: skip
        for key, (function, least) in functions.items():
            if side >= least:
                sums = [float(function(*pair, data_range=1.0)) * len(pair[0]) for pair in pairs]  # type: ignore[operator]
                values[key] = sum(sums) / len(frames_THWC)
        return values

    return likeness


def _streaming(tokenizer: VideoTokenizer, frames_THWC: torch.Tensor) -> tuple[float, int]:
    """How pixels and tokens that are made a latent frame at a time differ from those made at once."""
    device = next(tokenizer.parameters()).device
    whole = [torch.cat(list(encode_long(tokenizer, iter(frames_THWC), chunk=chunk))) for chunk in (STREAMED, 1)]
    tokens_Bthw = whole[0][None].to(device)
    at_once, cache, parts = tokenizer.decode(tokens_Bthw), None, []
    for latent in tokens_Bthw.split(1, 1):
        frames, cache = tokenizer.decode_chunk(latent, cache)
        parts.append(frames)
    return float((torch.cat(parts, 1) - at_once).abs().max()), int((whole[0] != whole[1]).sum())


def _write_sheet(path: Path, rows: list[torch.Tensor]) -> None:
    """Rows of clips of several sizes, each cut to the smallest."""
    height, width = (min(row.shape[axis] for row in rows) for axis in (2, 3))
    cut = torch.cat([row[:, :, :height, :width] for row in rows])
    write_contact_sheet(path, cut, columns=cut.shape[1], scale=1 if height > 96 else 2)
