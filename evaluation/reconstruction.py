"""Reconstructions of held-out clips by a tokenizer: their figures, and a contact sheet to look at.

figures = judge_held_out(tokenizer, [("a.mp4", frames_THW3)], Path("runs/tokenizer/reconstructions.png"))
figures["psnr"], figures["codebook_use"]
"""

import math
from pathlib import Path

import torch

from ..core.json_values import Json, JsonValue
from ..media.contact_sheet import write_contact_sheet
from ..tokenizer.long import decode_long, encode_long
from ..tokenizer.video_tokenizer import VideoTokenizer

COLUMNS = 5
GAIN = 4  # the factor by which differences are magnified, around grey


def frame_psnr(frames_THW3: torch.Tensor, shown_THW3: torch.Tensor) -> torch.Tensor:
    """Return the PSNR (T,) in dB of each frame of two uint8 clips; equal frames count as 100."""
    error = (frames_THW3.float() - shown_THW3.float()).square().flatten(1).mean(1) / 255**2
    return -10 * torch.log10(error.clamp(min=1e-10))


def flicker(frames_THW3: torch.Tensor, shown_THW3: torch.Tensor) -> float | None:
    """Return the mean absolute error, out of 255, of the change from a frame to the next; None for a single frame."""
    change = (shown_THW3.float().diff(dim=0) - frames_THW3.float().diff(dim=0)).abs()
    return float(change.mean()) if len(change) else None


def reconstruction_rows(frames_THW3: torch.Tensor, shown_THW3: torch.Tensor) -> torch.Tensor:
    """Return rows (3, COLUMNS, H, W, 3) uint8: truth, reconstruction, and `GAIN` times their difference around grey."""
    last = len(frames_THW3) - 1
    chosen = [round(column * last / (COLUMNS - 1)) for column in range(COLUMNS)]
    truth, made = frames_THW3[chosen].float(), shown_THW3[chosen].float()
    return torch.stack([truth, made, (128 + GAIN * (made - truth)).clamp(0, 255)]).to(torch.uint8)


def judge_held_out(tokenizer: VideoTokenizer, clips: list[tuple[str, torch.Tensor]], sheet: Path) -> Json:
    """Encode and decode each (name, frames (T, H, W, 3) uint8), and write a contact sheet of the reconstructions.

    The sheet has three rows per clip: truth, reconstruction, and `GAIN` times their difference around grey.

    Returns:
        psnr, the mean over the clips of the mean over their frames; codebook_use and perplexity of the tokens of all
        clips; tokens, their number; clips, the name, frames, height, width and psnr of each clip.
    """
    rows: list[torch.Tensor] = []
    table: list[JsonValue] = []
    psnrs: list[float] = []
    used: list[torch.Tensor] = []
    for name, clip_THW3 in clips:
        frames_THW3 = clip_THW3.cpu()
        count, height, width, _ = frames_THW3.shape
        tokens_thw = torch.cat(list(encode_long(tokenizer, iter(frames_THW3))))
        parts = decode_long(tokenizer, [tokens_thw], height=height, width=width, num_frames=count)
        shown_THW3 = torch.cat(list(parts))
        psnrs.append(round(float(frame_psnr(frames_THW3, shown_THW3).mean()), 3))
        table.append({"name": name, "frames": count, "height": height, "width": width, "psnr": psnrs[-1]})
        used.append(tokens_thw.flatten())
        rows.append(reconstruction_rows(frames_THW3, shown_THW3))
    tokens = torch.cat(used)
    shares = torch.bincount(tokens, minlength=tokenizer.vocab_size) / len(tokens)
    write_contact_sheet(sheet, torch.cat(rows), columns=COLUMNS, scale=1 if rows[0].shape[2] > 96 else 2)
    return {
        "psnr": round(sum(psnrs) / len(psnrs), 3),
        "codebook_use": round(float((shares > 0).float().mean()), 4),
        "perplexity": round(math.exp(float(torch.special.entr(shares).sum())), 1),
        "tokens": len(tokens),
        "clips": table,
    }
