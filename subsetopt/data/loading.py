"""Make a `Dataset` by name, of arrays, of Python objects or of whole batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from subsetopt.data.assembly import assemble, carve, shape_of
from subsetopt.data.catalog import DATASETS, LearntTable, Query, RawData, RawSplit
from subsetopt.data.checks import checked_inputs
from subsetopt.data.dataset import Dataset, Split, Task
from subsetopt.data.given.columns import GivenSamples, predictors_of
from subsetopt.data.normalization import standardised_beside
from subsetopt.data.subset import as_number
from subsetopt.data.weights import weighted
from subsetopt.distributed import Ranks
from subsetopt.errors import DataError, SettingError, setting, unknown_name
from subsetopt.inputs import Stored

_NORMALIZE = ("auto", "none", "standard")
_OF_TABLES = dict.fromkeys(("target_column", "test_file", "drop", "embed_words"), ("table",))
_READ_BY = {"data_file": ("table", "npz"), **_OF_TABLES}


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
    target_column: str | None = None,
    test_file: str | Path | None = None,
    drop: Sequence[str] = (),
    learnt: LearntTable | None = None,
    embed_words: int | None = None,
    ranks: Ranks | None = None,
) -> Dataset:
    """Load the data set `name` (see `DATASETS`) and carve a validation split from its training data by `seed`.

    `data_dir` defaults to the environment variable SUBSETOPT_DATA, then ~/.cache/subsetopt. `data_file` is the file
    of `npz` and `table` and the folder of `image-folder`, whose images are resized to `image_size` (height, width) if
    given. A `table` has the column `target_column` to predict and, where given, test rows in `test_file`; the columns
    in `drop` are left out. How its columns are encoded is learnt from the training split (`Dataset.encoding`), or given
    as `learnt`, with the classes; columns with more than `embed_words` words become codes (`TableEncoding.embedded`).
    `normalize`: "auto" and "standard" record mean and deviation of the training split's inputs and regression targets,
    "none" does not. `task` overrides what the dtype of the targets tells. The classes of `npz` are the labels
    that occur in its training data, in sorted order (`Dataset.class_names`). Several `ranks` check a part of the rows
    each for NaN and infinity, so that a memory-mapped file is not read by all.

    Raises `SettingError` for an unusable setting, `DataError` for missing or bad data, each in one line.
    """
    _check_settings(validation_fraction, normalize)
    reader = DATASETS.get(name)
    query = Query(
        _path(data_dir),
        _path(data_file),
        _image_size(image_size),
        target_column,
        _path(test_file),
        tuple(drop),
        task,
        learnt,
        embed_words,
    )
    raw = reader(query)
    for used in ("data_file", "image_size", "target_column", "test_file", "drop", "embed_words"):
        value = getattr(query, used)
        if value not in (None, ()) and used not in raw.uses:
            wanted = [setting("dataset", other) for other in _READ_BY.get(used, ()) if other != name]
            remedy = f"give {' or '.join(wanted)} with it, or leave it out" if wanted else "leave it out"
            raise SettingError(used, value, f"has no use with the data set {name}", remedy)
    return assemble(name, raw, task, validation_fraction, seed, normalize, ranks)


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
    n_classes: int | None = None,
    sample_weight: Any = None,
) -> Dataset:
    """Make a data set of tensors or arrays: inputs (n, ...), class labels (n,) or floating targets (n,) or (n, M).

    Whole numbers, words and truth values mean classification, floating targets regression, unless `task` says
    otherwise. The classes are the labels that occur in `y_train`, in sorted order (`Dataset.class_names`); with
    `n_classes` they are 0 to n_classes - 1, whether they occur or not. `sample_weight` (n,) weighs the rows of
    `x_train` in every loss, those that go to the validation split, too.

    Raises as `load_dataset` does, and `DataError` for a single class, for labels of `y_test` that `y_train` lacks, and
    for whole numbers with so many values that they may be quantities while no `task` is given.
    """
    _check_settings(validation_fraction, normalize)
    if n_classes is not None and (not isinstance(n_classes, int) or isinstance(n_classes, bool) or n_classes < 2):
        raise SettingError("n_classes", n_classes, "must be a whole number from 2", "leave it out to count the labels")
    if (x_test is None) != (y_test is None):
        missing, given = ("x_test", "y_test") if x_test is None else ("y_test", "x_test")
        raise DataError(f"{name}: {missing} is missing beside {given}; give both or neither")
    test = None if x_test is None else RawSplit(x_test, y_test)
    raw = RawData(RawSplit(x_train, y_train), test, n_classes=n_classes)
    return weighted(assemble(name, raw, task, validation_fraction, seed, normalize), sample_weight)


def dataset_of(
    given: GivenSamples,
    *,
    name: str = "arrays",
    task: Task | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
    normalize: str = "auto",
) -> Dataset:
    """Make a data set of samples that were given as Python objects; raises as `dataset_from_arrays` does."""
    _check_settings(validation_fraction, normalize)
    if given.targets is None:
        raise DataError(f"{name}: y_train is missing; give targets, or name them with targets=...")
    classes = () if task == "regression" else given.class_names
    raw = RawData(
        RawSplit(given.inputs, given.targets, None if given.rows is None else given.rows.numpy()),
        n_classes=len(classes) or None,
        class_names=classes,
        notes=given.notes,
    )
    dataset = assemble(name, raw, task, validation_fraction, seed, "none" if given.padded else normalize)
    if given.padded and normalize != "none":
        dataset = standardised_beside(dataset)
    return replace(dataset, columns=given.columns, input_name=given.input_name)


def dataset_of_batches(batches: Stored, validation_fraction: float, seed: int) -> Dataset:
    """Make a data set of whole samples for a loss that calls the model: as they are, with a share held out by `seed`.

    `in_shape` is that of what a model is called with to predict (see `predictors_of`). The loss has the targets, so M
    is taken for 1, and there are no targets of the data set.
    """
    _check_settings(validation_fraction, "none")
    inputs = checked_inputs(batches, "dataset")
    structure = inputs[:1]
    train, validation = carve(
        Split(inputs, torch.zeros(len(inputs), 1), torch.arange(len(inputs))), validation_fraction, seed, "regression"
    )
    note = "Q takes M = 1 equation per sample: the loss calls the model, and its targets are not known"
    in_shape = shape_of(predictors_of(structure))
    return Dataset("batches", "regression", in_shape, 1, train, validation, None, notes=(note,))


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
        raise SettingError(
            "image_size", size, "must be one or two whole numbers from 1 (height, width)", "for example 32"
        )
    return pair[0], pair[1]


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path).expanduser()
