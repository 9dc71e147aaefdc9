"""How many cases a test with @given draws: what is worth its seconds in every run, and more on demand.

REELM_EXAMPLES=10 pytest -n 2       # ten times as many
"""

import os

from hypothesis import settings


def examples(count):
    """The settings of a test that draws `count` cases, or REELM_EXAMPLES times as many."""
    return settings(max_examples=count * int(os.environ.get("REELM_EXAMPLES", "1")), deadline=None)
