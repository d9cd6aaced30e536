"""The target column of a table: labels as they stand in the file, or quantities; rows without one are left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.names import listed, printable, shown
from subsetopt.data.tables.cells import AmbiguousError, NumberFormat, is_no_label, number_format
from subsetopt.data.tables.columns import texts_of
from subsetopt.data.tables.table import Table
from subsetopt.errors import DataError, SettingError

_WHOLE = re.compile(r"[+-]?(0|[1-9][0-9]*)")


def labelled(table: Table, target: str) -> tuple[Table, NDArray[np.int64], list[str]]:
    """Return the rows that have a target, their numbers in the file, and a note where others were left out."""
    column = table.columns[target]
    if column.dtype.kind in "fM":
        gone = np.isnat(column) if column.dtype.kind == "M" else np.isnan(column)
    elif column.dtype.kind == "O":
        gone = np.array([is_no_label(text) for text in column.tolist()])
    else:
        gone = np.zeros(len(column), dtype=bool)
    kept = np.flatnonzero(~gone)
    if not len(kept):
        raise SettingError("target_column", target, f"the column has no value in {table.name}", "choose another column")
    if len(kept) == table.rows:
        return table, kept, []
    first = table.where(int(np.flatnonzero(gone)[0]))
    left = f"{table.name}: {int(gone.sum())} of {table.rows} rows have no {shown(target)}, first in {first}; left out"
    return table.take(kept), kept, [left]


def read_target(table: Table, target: str, task: str | None) -> NDArray[Any]:
    """Return whole numbers, floats, truth values or words, as the column has them, for the rules on tasks.

    Numbers in text are whole where all are, without a leading zero; then and where words are among them, they are names
    as they stand. With `task` "classification" text stays text but for whole numbers. Raises `DataError`.
    """
    column = table.columns[target]
    if column.dtype.kind == "M":
        raise DataError(f"{table.name}: the target {shown(target)!r} is a date; give numbers or class names")
    if column.dtype.kind != "O":
        return column
    texts = texts_of(column)
    different = sorted(set(texts))
    if all(_WHOLE.fullmatch(text) and abs(int(text)) < 2**63 for text in different):
        return np.array([int(text) for text in texts], dtype=np.int64)
    form = _numbers(table, target, different)
    if form is None or (task != "regression" and any(re.fullmatch(r"0[0-9]+", text) for text in different)):
        if task == "regression":
            raise _no_number(table, target, texts, NumberFormat())
        return np.array(texts, dtype=np.str_)
    return _parsed(table, target, form)


def read_target_like(table: Table, target: str, train: NDArray[Any], form: NumberFormat | None) -> NDArray[Any]:
    """Return the target of a test file, read as that of the training file was."""
    column = table.columns[target]
    if train.dtype.kind == "U":
        return np.array(texts_of(column), dtype=np.str_)
    if column.dtype.kind != "O" and table.lines is None:
        return column
    values = column if column.dtype.kind != "O" else _parsed(table, target, form or NumberFormat())
    whole = train.dtype.kind in "iu" and bool((values == np.round(values)).all())
    return values.astype(np.int64) if whole else values


def numbered(table: Table, target: str, labels: NDArray[Any], names: Sequence[str]) -> NDArray[np.int64]:
    """Return the numbers of labels among the classes `names` of a run; raises `DataError` for a label of no class."""
    places = {name: place for place, name in enumerate(names)}
    found = [places.get(printable(str(label)), -1) for label in labels.tolist()]
    if -1 in found:
        row = found.index(-1)
        unknown = sorted({str(label) for label, place in zip(labels.tolist(), found, strict=True) if place < 0})
        raise DataError(
            f"{table.name}: the target {shown(target)!r} is {shown(labels[row])!r} in {table.where(row)}, none of the "
            f"{len(names)} classes of the run ({listed(names)}); leave out the rows with {listed(unknown)}"
        )
    return np.array(found, dtype=np.int64)


def target_format(table: Table, target: str) -> NumberFormat | None:
    """Return how the target writes numbers, None where it has words."""
    column = table.columns[target]
    return _numbers(table, target, sorted(set(texts_of(column)))) if column.dtype.kind == "O" else None


def _numbers(table: Table, target: str, different: list[str]) -> NumberFormat | None:
    try:
        form, share = number_format(different, table.separator)
    except AmbiguousError as error:
        raise DataError(f"{table.name}: target {shown(target)!r}: {error}; write it unmistakably") from None
    return form if share == 1 else None


def _parsed(table: Table, target: str, form: NumberFormat) -> NDArray[np.float64]:
    texts = texts_of(table.columns[target])
    known = {text: form.parse(text) for text in set(texts)}
    if None in known.values():
        raise _no_number(table, target, texts, form)
    return np.array([known[text] for text in texts], dtype=np.float64)


def _no_number(table: Table, target: str, texts: Any, form: NumberFormat) -> DataError:
    row, text = next((row, text) for row, text in enumerate(texts) if form.parse(text) is None)
    return DataError(
        f"{table.name}: the target {shown(target)!r} is {shown(text)!r} in {table.where(row)}, no number"
        f"{form.described()}; correct it, or leave the row out"
    )
