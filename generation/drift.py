"""Drift: figures of a long clip, window by window, that show whether it freezes, fades or blurs.

    report = drift(parts, generator.generate("a red ball rolls", seconds=600))
    print(report)                                   # a table, a row a window
    report["windows"][-1]["sharpness_ratio"]

No model judges the clip: these are figures of its tokens and pixels, to be compared with those of the first window.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..core.errors import ReelmError, require
from ..core.modes import in_plain_modes
from ..core.plain_values import to_python, to_tensor
from ..core.progress import progress
from .arguments import is_number
from .options import ClipLike
from .pixels import PixelDecoder
from .pretrained import Pretrained
from .session import SessionState
from .source import Source, read_source

LUMA = (299, 587, 114)  # thousandths of red, green and blue, of Rec. 601
COLUMNS = (  # of the table: the heading, the width, the format of the value, and its name
    ("seconds", 9, ".2f", "start_seconds"),
    ("to", 9, ".2f", "end_seconds"),
    ("entropy", 9, ".3f", "token_entropy_nats"),
    ("repeated", 10, ".1%", "repeated_tokens"),
    ("red", 7, ".3f", "red"),
    ("green", 7, ".3f", "green"),
    ("blue", 7, ".3f", "blue"),
    ("distance", 10, ".3f", "colour_distance"),
    ("sharpness", 11, ".4f", "sharpness"),
    ("ratio", 8, ".3f", "sharpness_ratio"),
)


class DriftReport(dict[str, Any]):
    """The figures of all windows of a clip, as JSON values; printed as a table.

    Its keys are `window_latent_frames`, `window_seconds` and `windows`, a list with a dict of figures for each window:
        start_seconds, end_seconds, latent_frames: The range of the window; the last one ends with the clip and may be
            shorter.
        token_entropy_nats: The entropy of the histogram of its tokens. It is lower with fewer tokens, so that only
            windows of one length can be compared; it falls where a clip loses its variety.
        distinct_tokens: The number of different tokens, which grows with the length of the window, too.
        repeated_tokens: The share of tokens that equal those of one latent frame earlier, in the window or just before
            it; 1 is a still picture. None where there is no earlier one: for latent frame 0 alone.
        red, green, blue: The mean colour, from 0 to 1.
        colour_distance: The Euclidean distance of the mean colour from that of the first window.
        sharpness: The mean absolute Laplacian (the four neighbours less four times the pixel) of luma from 0 to 1.
        sharpness_ratio: The ratio of the sharpness to that of the first window; None where that is 0.
    """

    def __str__(self) -> str:
        rows = ["".join(f"{heading:>{width}}" for heading, width, _, _ in COLUMNS)]
        for window in self["windows"]:
            cells = ("-" if window[name] is None else f"{window[name]:{form}}" for _, _, form, name in COLUMNS)
            rows.append("".join(f"{cell:>{entry[1]}}" for cell, entry in zip(cells, COLUMNS, strict=True)))
        return "\n".join(rows)


@in_plain_modes
def drift(parts: Pretrained, clip: ClipLike, *, window_seconds: float | None = None) -> DriftReport:
    """Measure a clip window by window, with the floats of one latent frame at a time in memory.

    Args:
        parts: The model, which defines the tokens and the frame rate.
        clip: The tokens (t, h, w) as an array of int32 or int64, or anything that `continue_clip` takes. Where there
            are no frames (tokens, sessions), the decoded ones are measured. Frames without tokens of their own (up to
            `temporal - 1` at the beginning) are left out.
        window_seconds: The length of a window, rounded to whole latent frames; by default the window of the model.

    Raises:
        ReelmError: An argument is refused, or the clip cannot be read; nothing was computed.
    """
    compression, fps = parts.tokenizer.compression, parts.config.fps
    if window_seconds is None:
        size = parts.config.lm.window
    else:
        seconds = to_python(window_seconds)
        if not is_number(seconds) or seconds <= 0:
            raise ReelmError(f"window_seconds: must be a number above 0, got {window_seconds!r}")
        size = max(1, round(seconds * fps / compression.t))
    source = _read(parts, clip)
    tokens_thw, frames = source.tokens_thw.numpy(), _frames(parts, source)
    windows: list[dict[str, Any]] = []
    for start in progress(range(0, len(tokens_thw), size), "measuring", unit="window"):
        end = min(start + size, len(tokens_thw))
        windows.append(
            {
                "start_seconds": compression.frames(start) / fps,
                "end_seconds": compression.frames(end) / fps,
                "latent_frames": end - start,
                "token_entropy_nats": _entropy(tokens_thw[start:end]),
                "distinct_tokens": len(np.unique(tokens_thw[start:end])),
                "repeated_tokens": _repeated(tokens_thw, start, end),
                **_measure_frames(itertools.islice(frames, end - start)),
            }
        )
    first = windows[0]
    for window in windows:
        window["colour_distance"] = math.dist(_colour(window), _colour(first))
        window["sharpness_ratio"] = window["sharpness"] / first["sharpness"] if first["sharpness"] else None
    return DriftReport(window_latent_frames=size, window_seconds=size * compression.t / fps, windows=windows)


def _read(parts: Pretrained, clip: ClipLike) -> Source:
    """Read the clip; tokens alone are assumed to be those of this model."""
    if isinstance(clip, np.ndarray | torch.Tensor) and str(clip.dtype).removeprefix("torch.") in ("int32", "int64"):
        tokens_thw, layout = to_tensor(clip).long(), parts.lm.layout
        shape, (rows, columns) = tuple(tokens_thw.shape), layout.video.shape
        fits = len(shape) == 3 and shape[0] > 0 and shape[1:] == (rows, columns)
        require(fits, "clip", f"must have shape (t, {rows}, {columns}) where it is tokens", shape)
        least, most = int(tokens_thw.min()), int(tokens_thw.max())
        known = least >= 0 and most < layout.video.vocab_size
        require(known, "clip", f"must hold tokens from 0 to {layout.video.vocab_size - 1}", (least, most))
        others = {each.name: torch.full((shape[0], *each.shape), each.default) for each in layout.others}
        clip = SessionState(tokens_thw, others, settings={"tokenizer": parts.tokenizer_id})
    return read_source(parts, clip)


def _frames(parts: Pretrained, source: Source) -> Iterator[np.ndarray]:
    """Yield the frames (n, H, W, 3) uint8 of each latent frame: the given ones if there are any, else decoded ones."""
    compression, count = parts.tokenizer.compression, len(source.tokens_thw)
    if source.frames_THW3 is None:
        decoder = PixelDecoder(parts.tokenizer)
        for tokens_hw in source.tokens_thw:
            yield decoder.decode({0: tokens_hw})[0]
        return
    frames_THW3 = source.frames_THW3.numpy()[len(source.frames_THW3) - compression.frames(count) :]
    for index in range(count):
        yield frames_THW3[compression.frames(index) : compression.frames(index + 1)]


def _entropy(tokens_thw: np.ndarray) -> float:
    _, counts = np.unique(tokens_thw, return_counts=True)
    shares = counts / counts.sum()
    return float(abs((shares * np.log(shares)).sum()))


def _repeated(tokens_thw: np.ndarray, start: int, end: int) -> float | None:
    start = max(start, 1)
    return float((tokens_thw[start:end] == tokens_thw[start - 1 : end - 1]).mean()) if start < end else None


def _measure_frames(latent_frames: Iterator[np.ndarray]) -> dict[str, float]:
    """Return the mean colour and sharpness of the frames of these latent frames, each frame with the same weight."""
    pixels, inner, colour_3, edges = 0, 0, np.zeros(3, np.int64), 0
    for frames_THW3 in latent_frames:
        colour_3 += frames_THW3.sum((0, 1, 2), dtype=np.int64)
        pixels += frames_THW3[..., 0].size
        # Integers, so that a picture of one colour has no edges at all, whatever the colour.
        red_THW, green_THW, blue_THW = np.moveaxis(frames_THW3.astype(np.int32), -1, 0)
        luma_THW = LUMA[0] * red_THW + LUMA[1] * green_THW + LUMA[2] * blue_THW
        across = luma_THW[:, 1:-1, :-2] + luma_THW[:, 1:-1, 2:]
        down = luma_THW[:, :-2, 1:-1] + luma_THW[:, 2:, 1:-1]
        laplacian = np.abs(across + down - 4 * luma_THW[:, 1:-1, 1:-1])
        edges += int(laplacian.sum(dtype=np.int64))
        inner += laplacian.size
    red, green, blue = (colour_3 / (255 * pixels)).tolist()
    return {"red": red, "green": green, "blue": blue, "sharpness": edges / (255 * sum(LUMA) * inner)}


def _colour(window: dict[str, Any]) -> tuple[float, float, float]:
    return window["red"], window["green"], window["blue"]
