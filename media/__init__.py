"""Clip files and frames in memory: reading, writing, fitting and streaming. Nothing here knows about tokens."""
