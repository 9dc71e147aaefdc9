"""Generate, continue and stream video, one discrete token at a time.

import reelm

generator = reelm.VideoGenerator.from_pretrained("world")
video = generator.generate("a red ball rolls to the right over grass", seconds=2, seed=7)
video.save("ball.mp4")
longer = generator.continue_clip(video, seconds=10)

The public names are imported at their first use (PEP 562), so that the command line can answer before torch is loaded.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .bench.sampling import benchmark
    from .core.errors import CheckpointError, ClipError, ReelmError
    from .core.layout import TokenGrid
    from .generation.generator import VideoGenerator
    from .generation.stream import ClipStream
    from .generation.video import Video

__all__ = [
    "CheckpointError",
    "ClipError",
    "ClipStream",
    "ReelmError",
    "TokenGrid",
    "Video",
    "VideoGenerator",
    "benchmark",
]

_MODULES = {
    "CheckpointError": "core.errors",
    "ClipError": "core.errors",
    "ClipStream": "generation.stream",
    "ReelmError": "core.errors",
    "TokenGrid": "core.layout",
    "Video": "generation.video",
    "VideoGenerator": "generation.generator",
    "benchmark": "bench.sampling",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
