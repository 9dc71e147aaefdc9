"""reelm: video, one discrete token at a time."""

__version__ = "0.1.0"
