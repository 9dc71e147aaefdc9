"""The lowest layer: shapes, errors, strict configs, checkpoint folders, atomic files, devices and progress bars.

It imports nothing else of reelm.
"""
