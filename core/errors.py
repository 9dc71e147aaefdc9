"""The exceptions of reelm, and `require`, which gives all error messages one form: argument, rule, value.

>>> require(0 < 1, "seconds", "must be above 0", 1)
"""

# What to do where a library of an extra is missing; reelm is in no package index.
INSTALL = 'in a clone of the repository, pip install -c constraints.txt -e ".[{}]"'


class ReelmError(ValueError):
    """A request that reelm refuses; the message names the argument, the rule and the value."""


class ClipError(ReelmError):
    """A video or image file that cannot be read, or that is larger than the limits allow."""


class CheckpointError(ReelmError):
    """A checkpoint folder with a missing, truncated, mis-shaped or unsafe file."""


def require(condition: bool, argument: str, rule: str, value: object) -> None:
    """Raise `ReelmError` ("argument: rule, got value") unless `condition` holds."""
    if not condition:
        try:
            shown = repr(value)
        except Exception:  # of a value of others, or of a whole number that is too long for Python to print
            shown = f"a value of {type(value).__name__} that has no text"
        if len(shown) > 80:
            shown = shown[:77] + "..."
        raise ReelmError(f"{argument}: {rule}, got {shown}")
