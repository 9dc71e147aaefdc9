"""The keys and axes of prepared clips, which a model that is trained on them knows.

controller = learnt_controller(samples, pictures=4)         # of all samples of all splits
"""

from collections.abc import Iterable

import numpy as np

from ..core.controls import MOST_KEYS, Controller
from ..core.errors import require
from .shard_files import Sample

# Of the turns of an axis, so that one jerk of the hand does not make every other turn a small one.
LIMIT_PERCENTILE = 99.5


def learnt_controller(samples: Iterable[Sample], pictures: int) -> Controller:
    """Return the controller of clips: all keys and axes that their samples have, sorted by name.

    The limit of an axis is the percentile `LIMIT_PERCENTILE` of the sizes of its turns, where it turns at all.

    Args:
        samples: The samples of all splits, so that training and evaluation agree.
        pictures: The pictures of a latent frame: the tokenizer's temporal compression.

    Raises:
        ReelmError: There are more than `MOST_KEYS` keys, or an axis has the name of a key.
    """
    tracks = [sample.controls for sample in samples if sample.controls is not None]
    keys = sorted(frozenset().union(*(held for track in tracks for held in set(track.keys))))
    turns: dict[str, list[np.ndarray]] = {}
    for track in tracks:
        for name, values in track.axes.items():
            sizes = np.abs(values)
            turns.setdefault(name, []).append(sizes[sizes > 0])
    require(len(keys) <= MOST_KEYS, "data", f"must have at most {MOST_KEYS} keys in all clips together", keys)
    both = sorted(set(keys) & set(turns))
    require(not both, "data", "must have keys and axes of different names in all clips together", both)
    axes = sorted(turns)
    limits = tuple(_limit(np.concatenate(turns[name])) for name in axes)
    return Controller(keys=tuple(keys), axes=tuple(axes), limits=limits, pictures=pictures)


def _limit(sizes: np.ndarray) -> float:
    """Return the limit of an axis whose turns have these sizes; 1 if it never turns."""
    return float(f"{np.percentile(sizes, LIMIT_PERCENTILE):.6g}") if len(sizes) else 1.0
