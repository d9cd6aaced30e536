"""Class labels of any kind - numbers with gaps, words, truth values - as the classes 0 to M - 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subsetopt.data.checks import as_array
from subsetopt.data.names import listed, printable, same_to_the_eye, shown
from subsetopt.errors import DataError, setting

MANY_CLASSES = 10
"""From so many different labels on, `require_meant` wants some rows of each."""

_ROWS_PER_CLASS = 10
_WORTH_A_NOTE = 20


@dataclass(frozen=True)
class Classes:
    """The classes of a data set: `values` (M,), sorted, as they stand in the data; class i is `values[i]`."""

    values: NDArray[Any]

    @property
    def names(self) -> tuple[str, ...]:
        """The values as text that can be printed."""
        return tuple(printable(str(value)) for value in self.values.tolist())

    def number(self, labels: NDArray[Any], what: str) -> Tensor:
        """Return the class numbers (n,) of `labels`, int64; raises `DataError` for a label that is no class."""
        if labels.dtype.kind != self.values.dtype.kind and "U" in (labels.dtype.kind, self.values.dtype.kind):
            raise DataError(
                f"{what}: labels are {_kind(labels)}, those of y_train {_kind(self.values)}; make them alike"
            )
        positions = np.searchsorted(self.values, labels).clip(max=len(self.values) - 1)
        wrong = np.flatnonzero(self.values[positions] != labels)
        if len(wrong):
            unknown = np.unique(labels[wrong])
            known = f"{len(self.values)} classes of the training data ({listed(self.names[:6], len(self.values))})"
            raise DataError(
                f"{what}: {len(wrong)} labels are none of the {known}: {listed(unknown[:6].tolist(), len(unknown))}, "
                f"first at row {wrong[0]}; add training samples of these classes or leave the rows out"
            )
        return torch.from_numpy(positions.astype(np.int64))

    def note(self) -> str | None:
        """Return what to say of labels that are not the numbers 0 to M - 1 already."""
        m = len(self.values)
        if self.values.dtype.kind in "iu" and np.array_equal(self.values, np.arange(m)):
            return None
        return f"the class labels {listed(self.names[:6], m)} are numbered 0 to {m - 1} in this order"


def as_labels(array: Any, what: str) -> NDArray[Any]:
    """Return class labels (n,) as integers, truth values or text; raises `DataError` for anything else.

    Floating labels must be whole numbers; byte strings are read as UTF-8; an array of Python objects must hold one of
    these kinds alone.
    """
    labels = _uniform(as_array(array, what), what)
    if labels.dtype.kind not in "biufU":
        raise DataError(f"{what}: has dtype {labels.dtype}, needs class labels: whole numbers, words or truth values")
    if labels.ndim != 1:
        raise DataError(
            f"{what}: has shape {labels.shape}, needs one class label per row, (n,); try .argmax(1) or .ravel()"
        )
    if labels.dtype.kind == "f":
        labels = _whole(labels, what)
    if labels.dtype.kind == "U":
        _require_words(labels, what)
    if labels.dtype.kind == "u" and (labels.size == 0 or int(labels.max()) < 2**63):
        labels = labels.astype(np.int64)  # numpy compares uint64 with int64 as float64
    return labels


def classes_of(labels: NDArray[Any], what: str) -> Classes:
    """Return the classes that occur in `labels`; raises `DataError` for one class only and for look-alikes."""
    values = np.unique(labels)
    if len(values) == 1:
        raise DataError(f"{what}: all {len(labels)} labels are {shown(values[0])}; a classifier needs two classes")
    if values.dtype.kind == "U":
        seen: dict[str, str] = {}
        for value in values.tolist():
            other = seen.setdefault(same_to_the_eye(value), value)
            if other != value:
                pair = f"{other!a} and {value!a}"
                raise DataError(f"{what}: the labels {pair} differ only in spaces or Unicode form; make them one")
    return Classes(values)


def require_meant(labels: NDArray[Any], classes: Classes, what: str) -> str | None:
    """Refuse labels with so many values for their rows that they are quantities or names of single rows.

    Returns a note where they may be. Only for a task that nobody named: with task = classification every label is one.
    """
    m, n, numbers = len(classes.values), len(labels), labels.dtype.kind in "iu"
    kind = "whole numbers" if numbers else "labels"
    quantities = (
        f"for quantities use {setting('task', 'regression')}, for {m} classes {setting('task', 'classification')}"
    )
    if m > MANY_CLASSES and n < _ROWS_PER_CLASS * m:
        remedy = quantities if numbers else f"if they are classes, use {setting('task', 'classification')}"
        raise DataError(f"{what}: has {m} different {kind} in {n} rows, too many to be taken for classes; {remedy}")
    if m > _WORTH_A_NOTE and numbers:
        return f"{what}: {m} different whole numbers are taken for {m} classes; {quantities}"
    return None


def _uniform(labels: NDArray[Any], what: str) -> NDArray[Any]:
    """Turn bytes into text, and an array of Python objects of one kind into an array of that kind."""
    if labels.dtype.kind == "O":
        labels = _of_one_kind(labels, what)
    if labels.dtype.kind == "S":
        decoded = [label.decode("utf-8", "backslashreplace") for label in labels.ravel().tolist()]
        return np.asarray(decoded, dtype=np.str_).reshape(labels.shape)
    return labels.astype(np.str_) if labels.dtype.kind == "T" else labels


def _of_one_kind(labels: NDArray[Any], what: str) -> NDArray[Any]:
    flat = labels.ravel().tolist()
    for kinds, dtype in (((str,), np.str_), ((bytes,), np.bytes_), ((bool, np.bool_), np.bool_)):
        if all(isinstance(label, kinds) for label in flat):
            return np.asarray(flat, dtype=dtype).reshape(labels.shape)
    whole = (int, np.integer)
    if all(isinstance(label, whole) and not isinstance(label, bool) and abs(int(label)) < 2**63 for label in flat):
        return np.asarray(flat, dtype=np.int64).reshape(labels.shape)
    if all(isinstance(label, (*whole, float, np.floating)) and not isinstance(label, bool) for label in flat):
        return np.asarray(flat, dtype=np.float64).reshape(labels.shape)
    kinds_found = sorted({type(label).__name__ for label in flat})
    raise DataError(f"{what}: holds objects of the kinds {listed(kinds_found)}; use whole numbers alone or words alone")


def _whole(labels: NDArray[Any], what: str) -> NDArray[np.int64]:
    bad = np.flatnonzero(~np.isfinite(labels))
    if len(bad):
        raise DataError(
            f"{what}: {len(bad)} values are NaN or infinite, first {labels[bad[0]]} at [{bad[0]}]; "
            "remove or replace them"
        )
    wrong = np.flatnonzero((labels != np.round(labels)) | (np.abs(labels) >= 2.0**63))
    if len(wrong):
        raise DataError(
            f"{what}: {len(wrong)} class labels are not whole numbers, first {labels[wrong[0]]} at row {wrong[0]}; "
            f"use integer labels, or {setting('task', 'regression')}"
        )
    return labels.astype(np.int64)


def _require_words(labels: NDArray[Any], what: str) -> None:
    empty = np.flatnonzero(np.char.strip(labels) == "") if len(labels) else np.empty(0, np.int64)
    if len(empty):
        raise DataError(
            f"{what}: {len(empty)} labels are empty, first at row {empty[0]}; fill them in or leave them out"
        )


def _kind(labels: NDArray[Any]) -> str:
    return "words" if labels.dtype.kind == "U" else "numbers"
