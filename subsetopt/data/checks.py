"""Turn arrays into tensors and refuse bad data before any work: one line that names the array and the place."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from subsetopt.data.dataset import Task
from subsetopt.distributed import Ranks
from subsetopt.errors import DataError, unknown_name

MAX_CLASSES = 2**20
_BLOCK = 2**22
# What numpy has and torch lacks, or lacks arithmetic for.
_WIDER: dict[str, type[np.generic]] = {
    "bool": np.uint8, "uint16": np.int32, "uint32": np.int64, "uint64": np.int64, "float16": np.float32,
}  # fmt: skip


def as_tensor(array: Any, what: str) -> Tensor:
    """Return real numbers as a contiguous tensor on the CPU, in their own dtype where torch computes with it.

    Raises `DataError` for objects, strings, complex numbers and ragged lists.
    """
    if isinstance(array, Tensor):
        array = array.detach().cpu()
        if array.dtype == torch.bfloat16:
            array = array.float()
        array = array.numpy()
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise DataError(f"{what}: rows have different shapes; make them one array") from error
    if array.dtype.kind not in "buif":
        raise DataError(f"{what}: has dtype {array.dtype}, needs numbers; convert it to float32, or uint8 for images")
    if array.dtype == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise DataError(f"{what}: holds integers beyond 2^63 - 1; convert it to float64")
    wider = np.float64 if array.dtype.itemsize > 8 else _WIDER.get(array.dtype.name)
    array = array.astype(wider or array.dtype.newbyteorder("="), order="C", copy=False)
    # torch cannot share memory that is read-only or runs backwards.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def checked_inputs(array: Any, what: str, ranks: Ranks | None = None) -> Tensor:
    """Return inputs (n, ...) as a tensor; raises `DataError` for a wrong shape, no rows, NaN or infinity.

    Several `ranks` look for the latter in a part of the rows each.
    """
    inputs = as_tensor(array, what)
    if inputs.ndim < 2:
        shape = tuple(inputs.shape)
        raise DataError(f"{what}: has shape {shape}, needs (n, features) or (n, C, H, W); try .reshape(-1, 1)")
    _require_rows(inputs, what)
    if inputs.numel() == 0:
        raise DataError(f"{what}: has shape {tuple(inputs.shape)}, so no features; check how the array was made")
    require_finite(inputs, what, *(ranks or Ranks()).share(len(inputs)))
    return inputs


def checked_targets(array: Any, what: str, task: Task) -> Tensor:
    """Return int64 labels (n,) >= 0, or floating targets (n, M), by the task; raises `DataError`."""
    targets = as_tensor(array, what)
    _require_rows(targets, what)
    return _labels(targets, what) if task == "classification" else _regression_targets(targets, what)


def task_of(targets: Any, what: str, task: str | None) -> Task:
    """Return the task asked for, or classification for integer targets and regression for floating ones."""
    if task == "classification":
        return "classification"
    if task == "regression":
        return "regression"
    if task is not None:
        raise unknown_name("task", str(task), ("classification", "regression"))
    return "regression" if as_tensor(targets, what).is_floating_point() else "classification"


def require_same_length(inputs: Tensor, targets: Tensor, inputs_name: str, targets_name: str) -> None:
    """Raise `DataError` unless every input has a target."""
    if len(inputs) != len(targets):
        raise DataError(
            f"{inputs_name} has {len(inputs)} rows, {targets_name} {len(targets)}; each row needs one target"
        )


def require_labels_below(labels: Tensor, n_classes: int, what: str) -> None:
    """Raise `DataError` for labels that are no class of this data set."""
    wrong = torch.nonzero(labels >= n_classes).flatten()
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{what}: {len(wrong)} labels out of range 0 to {n_classes - 1}, first {int(labels[row])} at row {row}; "
            "correct the labels (a class must occur in the training data)"
        )


def require_finite(values: Tensor, what: str, begin: int = 0, end: int | None = None) -> None:
    """Raise `DataError` that counts the NaN and infinite entries and shows the first, a block of rows at a time.

    Rows from `begin` up to `end` (None: all that follow) are looked at.
    """
    if not values.is_floating_point():
        return
    rows_per_block = max(1, _BLOCK // max(1, values[:1].numel()))
    count, first = 0, None
    end = len(values) if end is None else end
    for start in range(begin, end, rows_per_block):
        bad = ~torch.isfinite(values[start : min(start + rows_per_block, end)])
        found = int(bad.sum())
        if found and first is None:
            position = torch.nonzero(bad)[0]
            position[0] += start
            first = tuple(position.tolist())
        count += found
    if first is not None:
        value = float(values[first])
        raise DataError(
            f"{what}: {count} values are NaN or infinite, first {value} at {list(first)}; remove or replace them"
        )


def _require_rows(values: Tensor, what: str) -> None:
    if values.ndim == 0 or len(values) == 0:
        raise DataError(f"{what}: has no rows; leave the split out or fill it")


def _labels(targets: Tensor, what: str) -> Tensor:
    if targets.ndim != 1:
        shape = tuple(targets.shape)
        raise DataError(f"{what}: has shape {shape}, needs one class label per row, (n,); try .argmax(1) or .ravel()")
    require_finite(targets, what)
    wrong = torch.nonzero(targets != targets.long()).flatten()
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f"{what}: {len(wrong)} class labels are not whole numbers, first {float(targets[row])} at row {row}; "
            "use integer labels, or task='regression'"
        )
    labels = targets.long()
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        row = int(torch.nonzero(labels < 0)[0])
        raise DataError(
            f"{what}: {int((labels < 0).sum())} class labels are negative, first {int(labels[row])} at row {row}; "
            "number the classes from 0"
        )
    if high >= MAX_CLASSES:
        raise DataError(
            f"{what}: the largest label {high} would mean {high + 1} outputs; number the classes from 0 without gaps"
        )
    return labels


def _regression_targets(targets: Tensor, what: str) -> Tensor:
    if targets.ndim not in (1, 2) or targets.numel() == 0:
        raise DataError(f"{what}: has shape {tuple(targets.shape)}, needs (n,) or (n, M); flatten what is left over")
    values = targets if targets.is_floating_point() else targets.double()
    require_finite(values, what)
    return values.reshape(len(values), -1)
