"""reelm: video, one discrete token at a time.

import reelm

generator = reelm.VideoGenerator.from_pretrained("world")
video = generator.generate("a red ball rolls to the right over grass", seconds=2, seed=7)
video.save("ball.mp4")
longer = generator.continue_clip(video, seconds=10)
"""

__version__ = "0.1.0"

from .core.errors import CheckpointError, ClipError, ReelmError
from .core.shapes import TokenGrid
from .sampling.generator import VideoGenerator
from .sampling.video import Video

__all__ = ["CheckpointError", "ClipError", "ReelmError", "TokenGrid", "Video", "VideoGenerator"]
