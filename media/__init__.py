"""Clip files <-> frames in memory: reading, writing, fitting and streaming; nothing here knows of tokens."""
