"""The block sizes of `jacobi` that `reelm bench blocks` has found to be the fastest for a model on this machine.

    sizes = BlockSizes.of(parts)                        # from the user's cache folder; empty if nothing was measured
    sizes.best(rows=2)                                  # 24; 1 stands for `sequential`, None for no measurement
    sizes.keep({1: 32, 2: 24, 16: 8})

The tokens of a clip do not depend on the block size, so what is kept changes times and nothing else.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..core.checkpoint import read_json, save_json
from ..core.errors import ReelmError
from ..core.json_values import Json
from .pretrained import Pretrained


@dataclass(frozen=True)
class BlockSizes:
    """The fastest block size by the number of rows of a pass, for one model with its numerics on one machine.

    Attributes:
        key: The model, its numerics, the device and the libraries that were measured.
        by_rows: The block size for each number of rows.
    """

    key: str
    by_rows: Mapping[int, int]

    @classmethod
    def of(cls, parts: Pretrained) -> "BlockSizes":
        """Read what was measured for this model, with as many threads as torch uses now."""
        lm, numerics = parts.lm, parts.lm.numerics
        device = torch.cuda.get_device_name(lm.device) if lm.device.type == "cuda" else "cpu"
        runtime = "openvino" if lm.cost(1, 1).runtime else "torch"  # which takes memory of its own
        key = ", ".join(
            [
                parts.lm_id, str(numerics.dtype), f"weights {numerics.weights}", f"cache {numerics.cache}", device,
                f"{torch.get_num_threads()} threads", f"{runtime} {torch.__version__}",
            ]
        )  # fmt: skip
        return cls(key, _measured(_read().get(key)))

    def best(self, rows: int) -> int | None:
        """Return the fastest block size for so many rows: that of the nearest number of rows, by their ratio."""
        if not self.by_rows:
            return None
        return self.by_rows[min(self.by_rows, key=lambda measured: abs(math.log(measured / rows)))]

    def keep(self, by_rows: Mapping[int, int]) -> Path:
        """Write other sizes for this model into the file, and return its path."""
        path = cache_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_json(path, {**_read(), self.key: {str(rows): size for rows, size in sorted(by_rows.items())}})
        return path


def cache_file() -> Path:
    """Return the path of the file in $REELM_CACHE, or else in the folder `reelm` of the user's cache folder."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reelm"
    return Path(os.environ.get("REELM_CACHE") or users) / "block-sizes.json"


def _read() -> Json:
    """Return the contents of the file; nothing where there is none, or one that is damaged."""
    try:
        return read_json(cache_file())
    except (ReelmError, OSError, RuntimeError):  # there may be no home folder
        return {}


def _measured(values: object) -> dict[int, int]:
    """Return the sizes among these values, without what is no size."""
    if not isinstance(values, dict):
        return {}
    found = {int(rows): size for rows, size in values.items() if rows.isdecimal() and type(size) is int}
    return {rows: size for rows, size in found.items() if rows > 0 and size > 0}
