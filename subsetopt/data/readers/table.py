"""A user's own table: a .csv, .tsv, .parquet or .arff file with named columns, one of them the target.

Columns of numbers, dates and truth values become one input each, words one per word; missing values are filled with
the median, and a column says where. All of this is learnt from the training rows and kept with the run.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from subsetopt.data.catalog import DATASETS, Encoded, LearntTable, Query, RawData, RawSplit
from subsetopt.data.names import listed, shown
from subsetopt.data.tables.cells import NumberFormat
from subsetopt.data.tables.encoding import learn_encoding
from subsetopt.data.tables.files import read_table
from subsetopt.data.tables.reading import Numbers
from subsetopt.data.tables.table import Table
from subsetopt.data.tables.target import labelled, numbered, read_target, read_target_like, target_format
from subsetopt.errors import SettingError, setting

USES = ("data_file", "target_column", "test_file", "drop", "embed_words")


@DATASETS.register(
    "table", "your own table in --data-file FILE.csv (.tsv, .parquet, .arff) with the column --target to predict"
)
def read_own_table(query: Query) -> RawData:
    """Read the file, and `test_file` where given; raises `SettingError` and `DataError` in one line."""
    table, target = _with_target(query)
    known = query.learnt
    table, rows, notes = labelled(table, target)
    labels = read_target(table, target, query.task)
    test, test_table = None, None
    if query.test_file is not None:
        test, test_table, more = _test_split(query, table, target, labels)
        notes += more
    classes = () if known is None else known.class_names
    if classes:
        labels = numbered(table, target, labels, classes)
        if test is not None and test_table is not None:
            test = replace(test, targets=numbered(test_table, target, test.targets, classes))
    return RawData(
        RawSplit(None, labels, rows),
        test,
        n_classes=len(classes) or None,
        class_names=classes,
        notes=(*table.notes, *(() if test_table is None else test_table.notes), *notes),
        uses=USES,
        encode=_encoder({"train": table} | ({} if test_table is None else {"test": test_table}), target, query),
        trained=bool(classes),
    )


def _with_target(query: Query) -> tuple[Table, str]:
    """Return the table and its column to predict."""
    if query.data_file is None:
        remedy = f"name it with {setting('data_file', 'FILE.csv')}"
        raise SettingError(setting("data_file"), None, "the data set table is a file of yours", remedy)
    target = query.target_column
    table = read_table(query.data_file, drop=query.drop, numbers=_plain_columns(target, query.learnt))
    if target is None:
        remedy = f"name it with {setting('target_column', 'COLUMN')}; there are {listed(table.columns)}"
        raise SettingError(setting("target_column"), None, f"{table.name} needs the column to predict", remedy)
    _require("target_column", target, table)
    for name in query.drop:
        _require("drop", name, table)
    if target in query.drop:
        raise SettingError("drop", target, "is the target", "drop another column, or none")
    if target in table.repeated:
        raise SettingError(
            "target_column", target, f"{table.name} has several columns of this name", "rename all but one"
        )
    return table, target


def _test_split(query: Query, table: Table, target: str, labels: NDArray[Any]) -> tuple[RawSplit, Table, list[str]]:
    """Return targets, table and notes of the test file, whose columns are read as those of `table` were."""
    assert query.test_file is not None, "there is one"
    known = query.learnt
    as_in_training = frozenset(name for name, column in table.columns.items() if column.dtype.kind == "f")
    numbers = Numbers(as_in_training, None if labels.dtype.kind == "U" else target)
    test_table = read_table(
        query.test_file, "test_file", query.drop, numbers if known is None else _plain_columns(None, known)
    )
    _require("target_column", target, test_table)
    test_table, rows, notes = labelled(test_table, target)
    targets = read_target_like(test_table, target, labels, target_format(table, target))
    return RawSplit(None, targets, rows), test_table, notes


def _encoder(tables: dict[str, Table], target: str, query: Query) -> Callable[[NDArray[np.int64]], Encoded]:
    """Return what encodes all tables as the given training rows teach; each is freed when that is done."""

    def encode(train: NDArray[np.int64]) -> Encoded:
        encoding = (
            learn_encoding(tables["train"].take(train), target, query.drop, query.embed_words)
            if query.learnt is None
            else query.learnt.encoding
        )
        inputs, said = {}, []
        for part in [*tables]:
            inputs[part], found = encoding.encode(tables.pop(part), release=True)
            said += [note for note in found if "training had no such column" not in note or part == "test"]
        return Encoded(inputs, encoding, tuple(said))

    return encode


def _plain_columns(target: str | None, known: LearntTable | None) -> Numbers:
    """Return the columns that may be kept as numbers: of a known encoding, those that it reads as plain numbers."""
    if known is None:
        return Numbers(None, target)
    plain = (column for column in known.encoding.columns if column.kind == "number" and column.form == NumberFormat())
    return Numbers(frozenset(column.name for column in plain))


def _require(keyword: str, name: str, table: Table) -> None:
    """Raise `SettingError` unless the table has the column, with "did you mean"."""
    if name in table.columns:
        return
    close = _close(name, table.columns)
    remedy = f"did you mean {shown(close)!r}?" if close else f"it has {listed(table.columns)}"
    if not close and any(_is_number(column) for column in table.columns):
        remedy = f"its first line must name the columns, it begins with {listed(table.columns)}"
    raise SettingError(keyword, name, f"{table.name} has no such column", remedy)


def _close(name: str, columns: Iterable[str]) -> str | None:
    names = list(columns)
    same = [column for column in names if column.casefold() == name.casefold()]
    return next(iter(same or difflib.get_close_matches(name, names, n=1, cutoff=0.5)), None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
