"""What a tokenizer makes of clips that it was not trained on: figures, and a sheet to be looked at.

figures = judge_held_out(tokenizer, [("a.mp4", frames_THW3)], Path("runs/tokenizer/reconstructions.png"))
figures["psnr"], figures["codebook_use"], figures["clips"][0]["psnr"]
"""

import math
from pathlib import Path
from typing import Any

import torch

from ..media.contact_sheet import write_contact_sheet
from ..tokenizer.long import decode_long, encode_long
from ..tokenizer.video_tokenizer import VideoTokenizer

COLUMNS = 5
GAIN = 4  # differences are shown this many times as large, about grey


def frame_psnr(frames_THW3: torch.Tensor, shown_THW3: torch.Tensor) -> torch.Tensor:
    """(T,) decibels of each frame, of two uint8 clips; equal frames count as 100."""
    error = (frames_THW3.float() - shown_THW3.float()).square().flatten(1).mean(1) / 255**2
    return -10 * torch.log10(error.clamp(min=1e-10))


def flicker(frames_THW3: torch.Tensor, shown_THW3: torch.Tensor) -> float | None:
    """The mean error, of 255, of the change from a frame to the next; None of a single frame."""
    change = (shown_THW3.float().diff(dim=0) - frames_THW3.float().diff(dim=0)).abs()
    return float(change.mean()) if len(change) else None


def reconstruction_rows(frames_THW3: torch.Tensor, shown_THW3: torch.Tensor) -> torch.Tensor:
    """(3, COLUMNS, H, W, 3) uint8: truth, reconstruction, and `GAIN` times their difference about grey."""
    last = len(frames_THW3) - 1
    chosen = [round(column * last / (COLUMNS - 1)) for column in range(COLUMNS)]
    truth, made = frames_THW3[chosen].float(), shown_THW3[chosen].float()
    return torch.stack([truth, made, (128 + GAIN * (made - truth)).clamp(0, 255)]).to(torch.uint8)


def judge_held_out(tokenizer: VideoTokenizer, clips: list[tuple[str, torch.Tensor]], sheet: Path) -> dict[str, Any]:
    """Encode and decode each (name, frames (T, H, W, 3) uint8), and write a contact sheet of what came back.

    The sheet has three rows a clip: truth, reconstruction, and `GAIN` times their difference about grey.

    Returns:
        psnr: the mean over clips of the mean over their frames; codebook_use and perplexity: of the tokens of all
        clips; tokens: how many; clips: name, frames, height, width and psnr of each.
    """
    rows: list[torch.Tensor] = []
    table: list[dict[str, Any]] = []
    used: list[torch.Tensor] = []
    for name, clip_THW3 in clips:
        frames_THW3 = clip_THW3.cpu()
        count, height, width, _ = frames_THW3.shape
        tokens_thw = torch.cat(list(encode_long(tokenizer, iter(frames_THW3))))
        parts = decode_long(tokenizer, [tokens_thw], height=height, width=width, num_frames=count)
        shown_THW3 = torch.cat(list(parts))
        psnr = float(frame_psnr(frames_THW3, shown_THW3).mean())
        table.append({"name": name, "frames": count, "height": height, "width": width, "psnr": round(psnr, 3)})
        used.append(tokens_thw.flatten())
        rows.append(reconstruction_rows(frames_THW3, shown_THW3))
    tokens = torch.cat(used)
    shares = torch.bincount(tokens, minlength=tokenizer.vocab_size) / len(tokens)
    write_contact_sheet(sheet, torch.cat(rows), columns=COLUMNS, scale=1 if rows[0].shape[2] > 96 else 2)
    return {
        "psnr": round(sum(entry["psnr"] for entry in table) / len(table), 3),
        "codebook_use": round(float((shares > 0).float().mean()), 4),
        "perplexity": round(math.exp(float(torch.special.entr(shares).sum())), 1),
        "tokens": len(tokens),
        "clips": table,
    }
