"""Errors of reelm, and `require`, which words every refusal the same way: argument, rule, value.

>>> require(0 < 1, "seconds", "must be above 0", 1)
"""

from typing import Any


class ReelmError(ValueError):
    """A request that reelm refuses. Its message names the argument, the rule and the value."""


class ClipError(ReelmError):
    """A video or image file that cannot be read, or that is larger than the limits allow."""


class CheckpointError(ReelmError):
    """A checkpoint folder with a missing, truncated, mis-shaped or unsafe file."""


def require(condition: bool, argument: str, rule: str, value: Any) -> None:
    """Raise `ReelmError` ("argument: rule, got value") unless `condition` holds."""
    if not condition:
        shown = repr(value)
        if len(shown) > 80:
            shown = shown[:77] + "..."
        raise ReelmError(f"{argument}: {rule}, got {shown}")
