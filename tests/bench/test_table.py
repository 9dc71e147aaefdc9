"""How figures are printed."""

from reelm.bench.table import list_lines, table_lines


def test_a_list_is_aligned():
    values = {"peak_memory": 123456.789, "left_out": {}, "x": None, "why": {"a": "b", "c": "d"}}
    assert list_lines(values) == [
        "peak memory  1.235e+05",
        "left out     nothing",
        "x            ",
        "why          a: b; c: d",
    ]


def test_a_table_is_aligned_and_what_a_row_lacks_is_empty():
    rows = [{"row": "ours", "both_ms": 12.3456}, {"row": "another"}, {"row": "x", "both_ms": 3, "more": 1}]
    assert table_lines(("row", "both_ms"), rows) == ["row      both ms", "ours     12.35", "another", "x        3"]
