"""A table in memory: named columns of equal length, from a file or from a data frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.names import listed, shown
from subsetopt.errors import DataError

Column = NDArray[Any]
"""Numbers (floats may be NaN), truth values, datetime64, or an object array of text in which "" is a missing value."""


@dataclass(frozen=True)
class Table:
    """Columns by name, all of `rows` values; `name` is what messages call the table.

    `separator` is that of a text file's columns, `lines` are line numbers of the rows in it, `repeated` are names that
    several columns of it have; `notes` are for the user.
    """

    name: str
    columns: Mapping[str, Column]
    rows: int
    separator: str | None = None
    lines: NDArray[np.int64] | None = None
    repeated: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())

    def take(self, rows: NDArray[Any]) -> Table:
        """Return the table of some rows."""
        lines = None if self.lines is None else self.lines[rows]
        return replace(self, columns=_Taken(self.columns, rows), rows=len(rows), lines=lines)

    def where(self, row: int) -> str:
        """Return how the user finds a row: by its line in a text file, else by its number from 0."""
        return f"row {row}" if self.lines is None else f"line {self.lines[row]}"


class _Taken(Mapping[str, Column]):
    """Some rows of columns, each of which is copied when it is asked for."""

    def __init__(self, columns: Mapping[str, Column], rows: NDArray[Any]) -> None:
        self._columns, self._rows = columns, rows

    def __getitem__(self, name: str) -> Column:
        taken: Column = self._columns[name][self._rows]
        return taken

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def is_frame(thing: object) -> bool:
    """Return whether `thing` has named columns as frames of pandas and polars have them, or is a `Table`."""
    if isinstance(thing, Table):
        return True
    return hasattr(thing, "columns") and hasattr(thing, "__getitem__") and hasattr(thing, "shape")


def table_of(frame: Any, name: str = "inputs") -> Table:
    """Return a data frame as a table, in the order of its rows; raises `DataError` for columns that hold no values."""
    if isinstance(frame, Table):
        return frame
    labels = list(frame.columns)
    names = [str(label) for label in labels]
    if twice := repeated(names):
        raise DataError(f"{name}: has several columns of the same name: {listed(twice)}; rename all but one")
    columns = {text: column_of(frame[label], text, name) for label, text in zip(labels, names, strict=True)}
    return Table(name, columns, len(frame))


def repeated(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names that occur more than once."""
    return tuple(sorted({text for text in names if names.count(text) > 1}))


def column_of(values: Any, column: str, table: str) -> Column:
    """Return one column from anything that numpy makes an array (n,) of; raises `DataError` for other kinds."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise DataError(f"{table}: column {shown(column)!r} has values of several numbers each; leave it out")
    if array.dtype.kind in "biufM":
        return array
    if array.dtype.kind not in "OUST":
        raise DataError(
            f"{table}: column {shown(column)!r} has dtype {array.dtype}; convert it to numbers, words or dates"
        )
    known: dict[Any, str] = {}
    texts = np.empty(len(array), dtype=object)
    for row, value in enumerate(array.tolist()):
        try:
            text = known.get((type(value), value))
        except TypeError:
            raise _no_value(value, column, table) from None
        if text is None:
            text = known[type(value), value] = _text(value, column, table)
        texts[row] = text
    return texts


def text_of_number(value: float) -> str:
    """Return a number as a text file has it: 3 for 3.0."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 2**63 else repr(float(value))


def _text(value: Any, column: str, table: str) -> str:
    if value is None or type(value).__name__ in ("NAType", "NaTType") or value != value:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace").strip()
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real | Decimal):
        return text_of_number(float(value))
    if isinstance(value, date):
        return value.isoformat()
    raise _no_value(value, column, table)


def _no_value(value: object, column: str, table: str) -> DataError:
    kind = type(value).__name__
    return DataError(f"{table}: column {shown(column)!r} holds {kind} objects; convert it to numbers, words or dates")
