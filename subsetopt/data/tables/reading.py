"""The columns of a text file as they are read: numbers where all of their cells are plain ones, else text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.tables.cells import is_missing, is_no_label, plain_numbers
from subsetopt.data.tables.table import Column

_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_LEADING_ZERO = re.compile(r"0[0-9]+")
_EXACT = 2.0**53


@dataclass(frozen=True)
class Numbers:
    """Which columns may be kept as numbers, whose text is dropped, where all of their cells are plain ones.

    `columns` None: all; the `target` by rules of its own.
    """

    columns: frozenset[str] | None = frozenset()
    target: str | None = None


class Cells:
    """The cells of one column, taken in by pieces.

    With `numbers`, pieces whose cells are plain numbers or missing ones are kept as float64, NaN where missing, and the
    text is dropped. `late` says that words came after such a piece: the text before has to be read again.
    """

    expected = 0  # numbers to make room for, so that none is copied to grow

    def __init__(self, numbers: bool, known: dict[str, str]) -> None:
        self.numbers, self.late = numbers, False
        self._known = known  # the same text is one object, however often it occurs
        self._values: NDArray[np.float64] = np.empty(0)
        self._read_values = 0
        self._texts: list[Column] = []

    def add(self, cells: Sequence[str]) -> None:
        """Take in the next cells."""
        if self.late:
            return
        if self.numbers:
            if (values := self._read(cells)) is not None:
                self._append(values)
                return
            self.numbers = False
            if self._read_values:
                self._give_up()
                return
        texts = np.empty(len(cells), dtype=object)
        texts[:] = [self._known.setdefault(cell, cell.strip()) for cell in cells]
        self._texts.append(texts)

    def column(self) -> Column:
        """Return all cells; they are no longer kept here."""
        if self._read_values:
            column, self._values = self._values[: self._read_values], np.empty(0)
            return column
        texts, self._texts = self._texts, []
        return np.concatenate(texts) if texts else np.empty(0, dtype=object)

    def _append(self, values: NDArray[np.float64]) -> None:
        """Add values where there is room; what lies beyond is memory that no page has been touched of."""
        start, self._read_values = self._read_values, self._read_values + len(values)
        if self._read_values > len(self._values):
            grown = np.empty(max(self._read_values, self.expected, len(self._values) * 3 // 2))
            grown[:start] = self._values[:start]
            self._values = grown
        self._values[start : self._read_values] = values

    def _give_up(self) -> None:
        self.late, self._values, self._read_values = True, np.empty(0), 0

    def _read(self, cells: Sequence[str]) -> NDArray[np.float64] | None:
        return plain_numbers(cells, is_missing)


class TargetCells(Cells):
    """The cells of a target: whole numbers are classes and become int64; what a name might be stays text."""

    def __init__(self, numbers: bool, known: dict[str, str]) -> None:
        super().__init__(numbers, known)
        self._whole, self._gaps, self._exact = True, False, True

    def column(self) -> Column:
        """Return all cells; numbers whose text would be needed are `late`."""
        if self.numbers and self._whole and (self._gaps or not self._exact):
            self._give_up()
        column = super().column()
        return column.astype(np.int64) if column.dtype.kind == "f" and self._whole else column

    def _read(self, cells: Sequence[str]) -> NDArray[np.float64] | None:
        different = {cell.strip() for cell in cells}
        values = plain_numbers(cells, is_no_label)
        if values is None or any(map(_LEADING_ZERO.fullmatch, different)):
            return None
        self._whole &= all(_WHOLE.fullmatch(text) or is_no_label(text) for text in different)
        self._gaps |= bool(np.isnan(values).any())
        self._exact &= not bool((np.abs(values) >= _EXACT).any())
        return values


def cells_of(header: Sequence[str], numbers: Numbers | None) -> list[Cells]:
    """Return empty columns for a header."""
    known: dict[str, str] = {}

    def empty(name: str) -> Cells:
        if numbers is None or header.count(name) > 1:
            return Cells(False, known)
        if name == numbers.target:
            return TargetCells(True, known)
        return Cells(numbers.columns is None or name in numbers.columns, known)

    return [empty(name) for name in header]
