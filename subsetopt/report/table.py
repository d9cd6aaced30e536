"""Aligned text tables for terminals."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], *, indent: str = "  ", left: int = 1) -> list[str]:
    """Return one line per row; the first `left` columns are flush left, the others flush right.

    The first row holds the headings. Rows may be shorter than the first.
    """
    columns = max(len(row) for row in rows)
    filled = [[*row, *[""] * (columns - len(row))] for row in rows]
    widths = [max(len(row[column]) for row in filled) for column in range(columns)]
    return [
        (indent + "  ".join(_aligned(cell, widths[i], i < left) for i, cell in enumerate(row))).rstrip()
        for row in filled
    ]


def _aligned(cell: str, width: int, left: bool) -> str:
    return cell.ljust(width) if left else cell.rjust(width)
