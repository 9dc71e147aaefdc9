"""Generate, continue and stream video, one discrete token at a time.

import reelm

generator = reelm.VideoGenerator.from_pretrained("world")
video = generator.generate("a red ball rolls to the right over grass", seconds=2, seed=7)
video.save("ball.mp4")
longer = generator.continue_clip(video, seconds=10)
"""

__version__ = "0.1.0"

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
