"""What tests look for in the folder that they run in."""

from pathlib import Path


def names() -> list[str]:
    """All that lies in the current folder."""
    return sorted(str(path) for path in Path().rglob("*"))
