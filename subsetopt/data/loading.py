"""Make a `Dataset`: read, check, carve the validation split, measure the normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subsetopt.data.catalog import DATASETS, Query, RawData, RawSplit
from subsetopt.data.checks import (
    checked_inputs,
    checked_targets,
    require_labels_below,
    require_same_length,
    task_of,
)
from subsetopt.data.dataset import Dataset, Split, Task
from subsetopt.data.normalization import measure
from subsetopt.data.subset import as_number, ranking
from subsetopt.distributed import Ranks
from subsetopt.errors import DataError, SettingError, unknown_name
from subsetopt.seeding import derive_seed

_NORMALIZE = ("auto", "none", "standard")


def load_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    data_file: str | Path | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
    normalize: str = "auto",
    task: Task | None = None,
    image_size: int | tuple[int, int] | None = None,
    ranks: Ranks | None = None,
) -> Dataset:
    """Load the data set `name` (see `DATASETS`) and carve a validation split from its training data by `seed`.

    `data_dir` defaults to the environment variable SUBSETOPT_DATA, then ~/.cache/subsetopt. `data_file` is the file
    of `npz` and the folder of `image-folder`, whose images are resized to `image_size` (height, width) if given.
    `normalize`: "auto" and "standard" record mean and deviation of the training split's inputs and regression targets,
    "none" does not. `task` overrides what the dtype of the targets tells. Several `ranks` look for NaN and
    infinity in a part of the rows each, so that a memory-mapped file is not read by all.

    Raises `SettingError` for an unusable setting, `DataError` for missing or bad data, each in one line.
    """
    _check_settings(validation_fraction, normalize)
    reader = DATASETS.get(name)
    query = Query(_path(data_dir), _path(data_file), _image_size(image_size))
    return _assemble(name, reader(query), task, validation_fraction, seed, normalize, ranks)


def dataset_from_arrays(
    x_train: Any,
    y_train: Any,
    x_test: Any = None,
    y_test: Any = None,
    *,
    name: str = "arrays",
    task: Task | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
    normalize: str = "auto",
) -> Dataset:
    """Make a data set of tensors or arrays: inputs (n, ...), integer labels (n,) or floating targets (n,) or (n, M).

    Integer targets mean classification with M = largest label + 1 outputs, floating ones regression, unless `task`
    says otherwise. `normalize` and what is raised are those of `load_dataset`.
    """
    _check_settings(validation_fraction, normalize)
    if (x_test is None) != (y_test is None):
        missing, given = ("x_test", "y_test") if x_test is None else ("y_test", "x_test")
        raise DataError(f"{name}: {missing} is missing beside {given}; give both or neither")
    test = None if x_test is None else RawSplit(x_test, y_test)
    raw = RawData(RawSplit(x_train, y_train), test)
    return _assemble(name, raw, task, validation_fraction, seed, normalize)


def validation_rows(targets: Tensor, fraction: float, seed: int, task: Task) -> Tensor:
    """Return the sorted rows that the validation split takes: max(1, round(fraction * n)) of n, none for 0.

    Stratified for classification. The last training row of a class is never taken away, which may leave the split a
    little smaller. Raises `SettingError` when nothing would be left to train on.
    """
    n = len(targets)
    size = max(1, round(fraction * n)) if fraction > 0 else 0
    if size >= n:
        remedy = "use --validation-fraction 0 or more data"
        raise SettingError("validation_fraction", fraction, f"would take all {n} training rows", remedy)
    labels = targets.numpy() if task == "classification" else None
    rows = ranking(n, derive_seed(seed, "validation"), labels, size)
    if labels is not None and size:
        exhausted = np.bincount(labels[rows], minlength=int(labels.max()) + 1) == np.bincount(labels)
        _, first_of_class = np.unique(labels[rows], return_index=True)
        rows = np.delete(rows, [i for i in first_of_class if exhausted[labels[rows[i]]]])
    return torch.from_numpy(np.sort(rows))


def _assemble(
    name: str,
    raw: RawData,
    task: Task | None,
    validation_fraction: float,
    seed: int,
    normalize: str,
    ranks: Ranks | None = None,
) -> Dataset:
    task = _task(name, raw, task)
    train = _checked(raw.train, name, "train", task, ranks)
    n_outputs = raw.n_classes or (
        int(train.targets.max()) + 1 if task == "classification" else int(train.targets.shape[1])
    )
    validation = None if raw.validation is None else _checked(raw.validation, name, "validation", task, ranks)
    test = None if raw.test is None else _checked(raw.test, name, "test", task, ranks)
    for part, split in (("train", train), ("validation", validation), ("test", test)):
        if split is not None:
            _require_fitting(split, train, n_outputs, f"{name}: ", part, task)
    if validation is None:
        train, validation = _carve(train, validation_fraction, seed, task)
    standardise = normalize != "none"
    return Dataset(
        name=name,
        task=task,
        in_shape=tuple(train.inputs.shape[1:]),
        n_outputs=n_outputs,
        train=train,
        validation=validation,
        test=test,
        normalization=measure(train.inputs) if standardise else None,
        class_names=raw.class_names,
        target_normalization=measure(train.targets) if standardise and task == "regression" else None,
    )


def _task(name: str, raw: RawData, task: Task | None) -> Task:
    if raw.n_classes is None:
        return task_of(raw.train.targets, f"{name}: y_train", task)
    if task not in (None, "classification"):
        raise SettingError("task", task, f"{name} is a classification data set", "leave it out")
    return "classification"


def _checked(raw: RawSplit, name: str, part: str, task: Task, ranks: Ranks | None) -> Split:
    x, y = f"{name}: x_{part}", f"{name}: y_{part}"
    inputs, targets = checked_inputs(raw.inputs, x, ranks), checked_targets(raw.targets, y, task)
    require_same_length(inputs, targets, x, f"y_{part}")
    rows = torch.arange(len(inputs)) if raw.rows is None else torch.from_numpy(raw.rows.astype(np.int64))
    return Split(inputs, targets, rows)


def _require_fitting(split: Split, train: Split, n_outputs: int, prefix: str, part: str, task: Task) -> None:
    if split.inputs.shape[1:] != train.inputs.shape[1:]:
        found, wanted = tuple(split.inputs.shape[1:]), tuple(train.inputs.shape[1:])
        raise DataError(f"{prefix}x_{part}: rows have shape {found}, those of x_train {wanted}; make them alike")
    if task == "classification":
        require_labels_below(split.targets, n_outputs, f"{prefix}y_{part}")
    elif split.targets.shape[1] != n_outputs:
        columns = split.targets.shape[1]
        raise DataError(f"{prefix}y_{part}: has {columns} columns, y_train has {n_outputs}; make them alike")


def _carve(train: Split, fraction: float, seed: int, task: Task) -> tuple[Split, Split | None]:
    taken = validation_rows(train.targets, fraction, seed, task)
    if len(taken) == 0:
        return train, None
    kept = torch.ones(len(train), dtype=torch.bool)
    kept[taken] = False
    return _take(train, torch.nonzero(kept).flatten()), _take(train, taken)


def _take(split: Split, rows: Tensor) -> Split:
    return Split(split.inputs[rows], split.targets[rows], split.rows[rows])


def _check_settings(validation_fraction: object, normalize: str) -> None:
    if not 0 <= as_number(validation_fraction) < 1:
        raise SettingError("validation_fraction", validation_fraction, "must be a number in [0, 1)", "try 0.1")
    if normalize not in _NORMALIZE:
        raise unknown_name("normalize", str(normalize), _NORMALIZE)


def _image_size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or any(not isinstance(side, int) or isinstance(side, bool) or side < 1 for side in pair):
        raise SettingError("image_size", size, "must be one or two whole numbers from 1 (height, width)", "try 32")
    return pair[0], pair[1]


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).expanduser()
