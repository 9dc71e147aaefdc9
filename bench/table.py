"""Lists and tables of figures, as benchmarks print them.

print(*list_lines({"threads": 2, "dtype": "float32"}), sep="\\n")
print(*table_lines(("row", "both_ms"), [{"row": "reelm", "both_ms": 12.3}]), sep="\\n")
"""

from collections.abc import Sequence
from typing import Any


def list_lines(values: dict[str, Any]) -> list[str]:
    """A line of each name with its value, aligned."""
    width = max(map(len, values))
    return [f"{name.replace('_', ' '):{width}}  {_show(value)}" for name, value in values.items()]


def table_lines(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line of the columns' names and one of each row, aligned; what a row lacks stays empty."""
    cells = [[name.replace("_", " ") for name in columns]]
    cells += [[_show(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    return ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in cells]


def _show(value: Any) -> str:
    """A figure in four digits, reasons by name, nothing for None."""
    if isinstance(value, dict):
        return "; ".join(f"{name}: {text}" for name, text in value.items()) or "nothing"
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
