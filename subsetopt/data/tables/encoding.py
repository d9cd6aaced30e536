"""The encoding of a table: which columns it has and how each becomes numbers, learnt from training rows alone."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.names import listed, shown
from subsetopt.data.tables.cells import NumberFormat
from subsetopt.data.tables.columns import ColumnEncoding
from subsetopt.data.tables.learning import learn_column
from subsetopt.data.tables.table import Table
from subsetopt.errors import DataError, setting

_WIDEST = 40
_MOST_CELLS = 2**31


@dataclass(frozen=True)
class TableEncoding:
    """How the columns of a table become inputs (n, D): in the order of the training file, `target` is none of them."""

    target: str
    columns: tuple[ColumnEncoding, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the D encoded columns."""
        return tuple(name for column in self.columns for name in column.outputs)

    @property
    def embedded(self) -> tuple[tuple[int, int], ...]:
        """The places among the D encoded columns of those that are codes of words, and how many codes each has."""
        places, at = [], 0
        for column in self.columns:
            if column.kind == "embedded":
                places.append((at, column.codes))
            at += len(column.outputs)
        return tuple(places)

    @property
    def indicators(self) -> tuple[bool, ...]:
        """Which of the D encoded columns are 0 or 1, or codes, and are not standardised."""
        return tuple(flag for column in self.columns for flag in column.indicators)

    def encode(self, table: Table, release: bool = False) -> tuple[NDArray[np.float64], list[str]]:
        """Return the inputs (n, D) of a table with the columns of training in any order, and notes for the user.

        Columns that training did not use need not be there. With `release` the table, which nobody needs any longer,
        loses each column that has been encoded. Raises `DataError` for a column that is missing and for
        values of another kind.
        """
        used = [column for column in self.columns if column.kind != "unused"]
        self._require_columns(table, used)
        if not table.rows:
            raise DataError(f"{table.name}: has no rows; fill it")
        known = {self.target, *(column.name for column in self.columns)}
        extra = [name for name in table.columns if name not in known]
        inputs, notes, at = np.empty((table.rows, len(self.features))), [], 0
        for column in used:
            encoded, own = column.encode(table, table.columns[column.name])
            inputs[:, at : at + encoded.shape[1]] = encoded
            at += encoded.shape[1]
            if release and isinstance(table.columns, dict):
                del table.columns[column.name]
            notes += [f"{table.name}: {note}" for note in own]
        if extra:
            notes.append(f"{table.name}: not used, since training had no such column: {listed(extra)}")
        return inputs, notes

    def _require_columns(self, table: Table, used: Sequence[ColumnEncoding]) -> None:
        names = [column.name for column in used]
        if twice := sorted({*table.repeated} & {*names}):
            raise DataError(f"{table.name}: has several columns of the same name: {listed(twice)}; keep one of each")
        lost = [name for name in names if name not in table.columns]
        if not lost:
            return
        close = difflib.get_close_matches(lost[0], [name for name in table.columns if name not in names], n=1)
        hint = f"is {shown(close[0])!r} meant? " if close else ""
        raise DataError(
            f"{table.name}: lacks {len(lost)} of the {len(names)} columns of the training data: {listed(lost)}; "
            f"{hint}it has {listed(table.columns)}"
        )

    def lines(self) -> list[str]:
        """Return the table of columns and how each is encoded, for people."""
        width = min(_WIDEST, max(len(shown(column.name)) for column in self.columns))
        return [f"  {shown(column.name):<{width}}  {column.described()}" for column in self.columns]

    def document(self) -> dict[str, Any]:
        """Return JSON-able values, from which `of_document` makes the same encoding."""
        return {"target": self.target, "columns": [asdict(column) for column in self.columns]}

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> TableEncoding:
        """Return the encoding that `document` returned; raises `KeyError` and `TypeError` for anything else."""
        return cls(document["target"], tuple(_column(entry) for entry in document["columns"]))


def _column(entry: Mapping[str, Any]) -> ColumnEncoding:
    lists = {name: tuple(entry[name]) for name in ("categories", "truths") if name in entry}
    return ColumnEncoding(**{**entry, **lists, "form": NumberFormat(**entry.get("form", {}))})


def learn_encoding(table: Table, target: str, drop: Sequence[str] = (), embed: int | None = None) -> TableEncoding:
    """Return the encoding of the columns of `table` but `target` and those in `drop`; all its rows are training rows.

    Columns with more than `embed` words are embedded. Raises `DataError` where no column is left, and for columns that
    cannot be read without doubt.
    """
    given = [name for name in table.columns if name != target and name not in drop]
    if twice := sorted({*table.repeated} - {*drop}):
        remedy = f"rename all but one, or leave them out with {setting('drop', ','.join(twice))}"
        raise DataError(f"{table.name}: has several columns of the same name: {listed(twice)}; {remedy}")
    learnt = tuple(learn_column(table, name, table.columns[name], embed) for name in given)
    encoding = TableEncoding(target, learnt)
    if not encoding.features:
        left = f" (left out: {listed(column.name for column in learnt)})" if learnt else ""
        raise DataError(f"{table.name}: has no column to learn from beside {target!r}{left}; add one")
    if table.rows * len(encoding.features) > _MOST_CELLS:
        widest = max(learnt, key=lambda column: len(column.outputs))
        raise DataError(
            f"{table.name}: {table.rows} rows of {len(encoding.features)} encoded columns do not fit into memory; "
            f"leave some out, for example {setting('drop', widest.name)}"
        )
    return encoding
