"""Format figures as aligned lists and tables, which benchmarks print.

print(*list_lines({"threads": 2, "dtype": "float32"}), sep="\\n")
print(*table_lines(("row", "both_ms"), [{"row": "reelm", "both_ms": 12.3}]), sep="\\n")
"""

from collections.abc import Mapping, Sequence


def list_lines(values: Mapping[str, object]) -> list[str]:
    """Return one line for each name and its value, aligned."""
    width = max(map(len, values))
    return [f"{name.replace('_', ' '):{width}}  {_format(value)}" for name, value in values.items()]


def table_lines(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return one line of column names and one line for each row, aligned; a missing value is an empty cell."""
    cells = [[name.replace("_", " ") for name in columns]]
    cells += [[_format(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    return ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in cells]


def _format(value: object) -> str:
    """Format a float with four significant digits, a dictionary as "name: value" pairs, and None as nothing."""
    if isinstance(value, dict):
        return "; ".join(f"{name}: {text}" for name, text in value.items()) or "nothing"
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
