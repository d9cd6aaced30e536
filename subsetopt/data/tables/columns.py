"""How one column becomes numbers: applied to values, and shown to the user; how it is learnt is in `learning.py`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.names import listed, shown
from subsetopt.data.tables.cells import (
    NumberFormat,
    days_of,
    is_missing,
)
from subsetopt.data.tables.table import Column, Table, text_of_number
from subsetopt.errors import DataError, setting

Kind = Literal["number", "boolean", "date", "words", "embedded", "unused"]


@dataclass(frozen=True)
class ColumnEncoding:
    """The encoding of one column, all that a run keeps of it.

    A number, a date (days since 1970) and a truth value (0 or 1) have one column, with `fill` for a missing value;
    words have one for each of `categories` and, with `other`, one for all others. Where `missing` training values were
    missing, one more is 1 for those. An embedded column has the code of the word: 0 for rare and unknown ones, then
    `categories` in their order, then missing ones. `reason` says why a column is unused.
    """

    name: str
    kind: Kind
    missing: int = 0
    fill: float = 0.0
    categories: tuple[str, ...] = ()
    other: bool = False
    words: int = 0
    form: NumberFormat = field(default=NumberFormat())
    date: str = ""
    truths: tuple[str, ...] = ()
    reason: str = ""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the encoded columns."""
        if self.kind == "unused":
            return ()
        if self.kind == "embedded":
            return (self.name,)
        own: tuple[str, ...] = (self.name,)
        if self.kind == "words":
            own = (*(f"{self.name}={word}" for word in self.categories), *([f"{self.name}=(other)"] * self.other))
        return (*own, *([f"{self.name} missing"] * (self.missing > 0)))

    @property
    def codes(self) -> int:
        """How many codes an embedded column has."""
        return 1 + len(self.categories) + (self.missing > 0)

    @property
    def indicators(self) -> tuple[bool, ...]:
        """Which of the encoded columns are 0 or 1, or codes, and are not standardised."""
        return tuple(self.kind in ("words", "boolean", "embedded") or place > 0 for place in range(len(self.outputs)))

    def encode(self, table: Table, column: Column) -> tuple[NDArray[np.float64], list[str]]:
        """Return the encoded columns (n, width) of new values, and notes on values that training did not have."""
        encoded = np.zeros((len(column), len(self.outputs)))
        if self.kind in ("words", "embedded"):
            return encoded, self._encode_words(column, encoded)
        values = numbers_of(table, self, column)
        gone = np.isnan(values)
        if (large := np.flatnonzero(np.abs(values) > np.finfo(np.float32).max)).size:
            raise DataError(
                f"{table.name}: column {shown(self.name)!r}: {values[large[0]]:g} in {table.where(int(large[0]))} is "
                f"too large for single precision; give the column in a larger unit, or leave it out with "
                f"{setting('drop', self.name)}"
            )
        encoded[:, 0] = np.where(gone, self.fill, values)
        if self.missing:
            encoded[gone, 1] = 1
        elif gone.any():
            notes = [f"column {shown(self.name)!r}: {int(gone.sum())} missing, none was in training"]
            return encoded, [f"{notes[0]}; taken as {self.fill:g}"]
        return encoded, []

    def _encode_words(self, column: Column, encoded: NDArray[np.float64]) -> list[str]:
        places = {word: place for place, word in enumerate(self.categories)}
        gone_at = len(self.outputs) - 1 if self.missing else None
        if self.kind == "embedded":
            return self._encode_codes(column, encoded, places)
        unseen: Counter[str] = Counter()
        for row, word in enumerate(texts_of(column)):
            place = places.get(word)
            if place is None and is_missing(word):
                place = gone_at
                unseen["(missing)"] += place is None
            elif place is None:
                place = len(self.categories) if self.other else None
                unseen[word] += place is None
            if place is not None:
                encoded[row, place] = 1
        unseen = +unseen
        if not unseen:
            return []
        rows = "1 row" if unseen.total() == 1 else f"{unseen.total()} rows"
        return [
            f"column {shown(self.name)!r}: not in training: {listed(unseen)} ({rows}); taken as none of the known words"
        ]

    def _encode_codes(self, column: Column, encoded: NDArray[np.float64], places: dict[str, int]) -> list[str]:
        cells = texts_of(column)
        codes = {cell: places[cell] + 1 for cell in set(cells) if cell in places}
        if self.missing:
            codes |= {cell: self.codes - 1 for cell in set(cells) if cell not in codes and is_missing(cell)}
        encoded[:, 0] = [codes.get(cell, 0) for cell in cells]
        return []

    def described(self) -> str:
        """Return in a few words how the column is encoded."""
        gone = f"; {self.missing} missing" if self.missing else ""
        if self.kind == "unused":
            return f"left out: {self.reason}"
        if self.kind == "embedded":
            rare = self.words - len(self.categories)
            text = f"embedded: {len(self.categories)} of {self.words} words have a vector"
            text += f", the {rare} that occur once and unknown ones share one" if rare else ", unknown ones share one"
            return f"{text}{f'{gone} (a vector of their own)' if gone else ''}"
        if self.kind == "words":
            kept = len(self.categories)
            rest = (
                f"the {kept} most frequent of {self.words} words, and others"
                if self.other
                else f"{kept} word{'s' * (kept > 1)}"
            )
            return f"one-hot: {rest}{f'{gone} (a column of their own)' if gone else ''}"
        what = {"number": f"number{self.form.described()}", "boolean": "0/1", "date": "days since 1970"}[self.kind]
        if self.kind == "boolean" and self.truths:
            what = f"0/1 ({' / '.join(self.truths)})"
        return f"{what}{f'{gone}: {self.fill:.6g}, and a column that says so' if gone else ''}"


def texts_of(column: Column) -> Sequence[str]:
    """Return the values as text; a missing value is ""."""
    if column.dtype.kind == "O":
        return list(column)
    if column.dtype.kind == "b":
        return ["true" if value else "false" for value in column.tolist()]
    if column.dtype.kind == "M":
        return ["" if text == "NaT" else text for text in np.datetime_as_string(column).tolist()]
    return ["" if value != value else text_of_number(value) for value in column.tolist()]


def numbers_of(table: Table, encoding: ColumnEncoding, column: Column) -> NDArray[np.float64]:
    """Return the values (n,) of a column that is no words, NaN where missing; raises `DataError` for other values."""
    if encoding.kind == "date" and column.dtype.kind == "M":
        days = (column - np.datetime64("1970-01-01", "us")) / np.timedelta64(86_400_000_000, "us")
        return days.astype(np.float64)
    if encoding.kind in ("number", "boolean") and column.dtype.kind in "biuf":
        values = column.astype(np.float64)
        other = encoding.kind == "boolean" and not np.isin(values[~np.isnan(values)], (0, 1)).all()
        if other or np.isinf(values).any():
            raise wrong_value(table, encoding, column, {"0": 0.0, "1": 1.0}.get if other else encoding.form.parse)
        return values
    parse: Callable[[str], float | None] = encoding.form.parse
    if encoding.kind == "date":
        parse = lambda text: days_of(text, encoding.date)  # noqa: E731
    elif encoding.kind == "boolean":
        values_of = {word: float(place % 2) for place, word in enumerate((*encoding.truths, "0", "1"))}
        parse = lambda text: values_of.get(text.casefold())  # noqa: E731
    cells = texts_of(column)
    known = {cell: np.nan if is_missing(cell) else parse(cell) for cell in set(cells)}
    if None in known.values():
        raise wrong_value(table, encoding, column, parse)
    return np.array([known[cell] for cell in cells], dtype=np.float64)


def wrong_value(
    table: Table, encoding: ColumnEncoding, column: Column, parse: Callable[[str], float | None]
) -> DataError:
    row, cell = next((r, c) for r, c in enumerate(texts_of(column)) if not is_missing(c) and parse(c) is None)
    wanted = {"number": "finite number", "date": "date", "boolean": "truth value"}[encoding.kind]
    like = f" like those of training ({encoding.date})" if encoding.kind == "date" else encoding.form.described()
    problem = f"{shown(cell)!r} in {table.where(row)} is no {wanted}{like}"
    return DataError(f"{table.name}: column {shown(encoding.name)!r}: {problem}; correct it or leave it empty")
