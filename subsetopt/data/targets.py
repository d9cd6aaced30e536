"""Targets of all splits: which task they mean, which classes or columns they have, and what to say of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subsetopt.data.checks import as_array, as_tensor, regression_targets, require_rows
from subsetopt.data.dataset import Task
from subsetopt.data.labels import MANY_CLASSES, Classes, as_labels, classes_of, require_meant
from subsetopt.data.names import listed
from subsetopt.errors import DataError, setting, unknown_name

# A column whose deviation is so many units in the last place of its numbers holds little but their rounding.
_CONSTANT_ULPS = 8


@dataclass(frozen=True)
class Targets:
    """Tensors by split ("train", "validation", "test"), M, the names of classes and notes for the user."""

    task: Task
    splits: Mapping[str, Tensor]
    n_outputs: int
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def read_targets(
    prefix: str,
    raw: Mapping[str, Any],
    task: str | None,
    n_classes: int | None = None,
    names: tuple[str, ...] = (),
    trained: bool = False,
) -> Targets:
    """Return the targets of the splits `raw`, int64 labels (n,) or floating (n, M).

    Several whole numbers or truth values per sample are int64 (n, ...), unless `task` says what they are.

    Classes are the labels that occur in the training data, numbered in sorted order, unless `n_classes` declares the
    labels to be 0 to n_classes - 1; of data for a `trained` classifier one class is enough. `prefix` names the data set
    in messages. Raises `DataError` and `SettingError`.
    """
    for part, targets in raw.items():
        require_rows(as_array(targets, f"{prefix}y_{part}"), f"{prefix}y_{part}")
    if task is None and n_classes is None and _is_labelled(as_array(raw["train"], f"{prefix}y_train")):
        return _labelled(prefix, raw)
    meant = _task(raw["train"], f"{prefix}y_train", task)
    if meant == "regression":
        return _regression(prefix, raw)
    labels = {part: as_labels(targets, f"{prefix}y_{part}") for part, targets in raw.items()}
    if n_classes is not None:
        return _declared(prefix, labels, n_classes, names, trained)
    what = f"{prefix}y_train"
    classes = classes_of(labels["train"], what)
    doubt = require_meant(labels["train"], classes, what) if task is None else None
    numbered = {part: classes.number(found, f"{prefix}y_{part}") for part, found in labels.items()}
    notes = tuple(note for note in (classes.note(), doubt) if note)
    return Targets("classification", numbered, len(classes.values), classes.names, notes)


def absent_classes(part: str, labels: Tensor, class_names: tuple[str, ...]) -> Iterator[str]:
    """Yield a note on the classes of which the split `part` has no sample."""
    counts = torch.bincount(labels, minlength=len(class_names))
    absent = [class_names[number] for number in torch.nonzero(counts == 0).flatten().tolist()]
    if absent:
        count = f"{len(absent)} of the {len(class_names)} classes"
        yield f"the {part} split has no sample of {count}: {listed(absent)}"


def _task(targets: Any, what: str, task: str | None) -> Task:
    """Return the task asked for, or regression for floating targets and classification for all others."""
    if task == "classification":
        return "classification"
    if task == "regression":
        return "regression"
    if task is not None:
        raise unknown_name("task", str(task), ("classification", "regression"))
    array = as_array(targets, what)
    if array.dtype.kind == "O":
        array = as_labels(array, what) if array.ndim == 1 else array
    return "regression" if array.dtype.kind == "f" else "classification"


def _declared(prefix: str, labels: Mapping[str, Any], n_classes: int, names: tuple[str, ...], trained: bool) -> Targets:
    for part, found in labels.items():
        what = f"{prefix}y_{part}"
        if found.dtype.kind not in "biu":
            raise DataError(f"{what}: labels are words, needs the numbers 0 to {n_classes - 1}; number the classes")
        wrong = np.flatnonzero((found < 0) | (found >= n_classes))
        if len(wrong):
            raise DataError(
                f"{what}: {len(wrong)} labels out of range 0 to {n_classes - 1}, first {int(found[wrong[0]])} at row "
                f"{wrong[0]}; correct the labels"
            )
    if n_classes < 2:
        raise DataError(f"{prefix}y_train: all labels are one class; a classifier needs two classes")
    if not trained:
        classes_of(labels["train"], f"{prefix}y_train")
    names = names or Classes(np.arange(n_classes)).names
    numbered = {part: torch.from_numpy(found.astype(np.int64)) for part, found in labels.items()}
    return Targets("classification", numbered, n_classes, names, ())


def _is_labelled(targets: NDArray[Any]) -> bool:
    """Whether a sample has several whole numbers or truth values: labels of its positions, or several labels."""
    return targets.dtype.kind in "biu" and targets.ndim > 1 and targets[0].size > 1


def _labelled(prefix: str, raw: Mapping[str, Any]) -> Targets:
    """Return them as int64 (n, ...), for a loss given as an object, which knows what they are."""
    splits = {part: as_tensor(targets, f"{prefix}y_{part}").to(torch.int64) for part, targets in raw.items()}
    shape = splits["train"].shape[1:]
    for part, targets in splits.items():
        if targets.shape[1:] != shape:
            found, wanted = tuple(targets.shape[1:]), tuple(shape)
            raise DataError(f"{prefix}y_{part}: rows have shape {found}, those of y_train {wanted}; make them alike")
    return Targets("regression", splits, shape.numel(), (), ())


def _regression(prefix: str, raw: Mapping[str, Any]) -> Targets:
    splits = {part: regression_targets(targets, f"{prefix}y_{part}") for part, targets in raw.items()}
    columns = splits["train"].shape[1]
    for part, targets in splits.items():
        if targets.shape[1] != columns:
            found = targets.shape[1]
            raise DataError(f"{prefix}y_{part}: has {found} columns, y_train has {columns}; make them alike")
    return Targets("regression", splits, columns, (), tuple(_notes(f"{prefix}y_train", splits["train"], raw["train"])))


def _notes(what: str, targets: Tensor, raw: Any) -> Iterator[str]:
    values = targets.double()
    spread = values.std(0, correction=0)
    rounding = torch.finfo(targets.dtype).eps * values.abs().amax(0)
    constant = torch.nonzero(spread <= _CONSTANT_ULPS * rounding).flatten().tolist()
    if constant:
        value = float(values[0, constant[0]])
        which = "is" if targets.shape[1] == 1 else f"columns {listed(constant)} are"
        yield f"{what} {which} constant to within rounding ({value:g}): the mean predicts it, nothing is left to learn"
    if targets.shape[1] == 1 and not constant and as_array(raw, what).dtype.kind == "f":
        different = torch.unique(values)
        if len(different) <= MANY_CLASSES and bool((different == different.round()).all()):
            numbers = listed(f"{value:g}" for value in different.tolist())
            classes = f"for classes use {setting('task', 'classification')}"
            yield f"{what} holds only the whole numbers {numbers} as floats, taken for quantities; {classes}"
    if targets.shape[1] > 1 and bool((((values == 0) | (values == 1)).all(1) & (values.sum(1) == 1)).all()):
        yield (
            f"{what} is one-hot (a single 1 in each row), taken for {targets.shape[1]} quantities; "
            "for classes give their numbers, y.argmax(1)"
        )
