"""The numbers as they are kept in numbers.json: made from results, read and written.

kept = read()["tokens"]["raster/jacobi"]
assert token_numbers(videos) == kept["clips"]
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

PATH = Path(__file__).with_name("numbers.json")
PIXELS = 24  # values of a clip that are kept


def read() -> dict[str, dict[str, Any]]:
    """The kept numbers, by kind and name of the case."""
    return json.loads(PATH.read_text(encoding="utf-8"))


def write(numbers: dict[str, dict[str, Any]]) -> None:
    """Keep these numbers, a case a line."""
    kinds = []
    for kind, cases in numbers.items():
        lines = [f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in cases.items()]
        kinds.append(f"  {json.dumps(kind)}: {{\n" + ",\n".join(lines) + "\n  }")
    PATH.write_text("{\n" + ",\n".join(kinds) + "\n}\n", encoding="utf-8")


def _digest(values: np.ndarray, dtype: str) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).astype(dtype).tobytes()).hexdigest()[:16]


def token_numbers(videos: list[Any]) -> list[dict[str, Any]]:
    """Shape, first ids and hash of the tokens of each clip."""
    return [
        {
            "shape": list(video.tokens.shape),
            "first": video.tokens.flatten()[:16].tolist(),
            "sha256": _digest(video.tokens, "<i4"),
        }
        for video in videos
    ]


def pixel_numbers(frames: np.ndarray) -> dict[str, Any]:
    """Shape, a sample of the values, and hash of uint8 frames."""
    assert frames.dtype == np.uint8
    places = np.linspace(0, frames.size - 1, PIXELS).astype(int)
    return {"shape": list(frames.shape), "sample": frames.flatten()[places].tolist(), "sha256": _digest(frames, "u1")}


def score_numbers(nats: np.ndarray) -> dict[str, Any]:
    """Shape, mean, first values and hash of float32 nats."""
    first = [float(value) for value in nats.flatten()[:8]]
    mean = float(nats.mean(dtype=np.float64))
    return {"shape": list(nats.shape), "mean": mean, "first": first, "sha256": _digest(nats, "<f4")}


def loss_numbers(losses: list[float], weights: str) -> dict[str, Any]:
    """Losses, and the hash of the weights after the last step."""
    return {"losses": losses, "sha256": weights[:16]}
