"""Make a `Dataset`: read, check, carve the validation split, measure the normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subsetopt.data.catalog import DATASETS, LearntTable, Query, RawData, RawSplit
from subsetopt.data.checks import checked_inputs, require_same_length
from subsetopt.data.dataset import Dataset, Normalization, Split, Task
from subsetopt.data.given.columns import GivenSamples, predictors_of
from subsetopt.data.normalization import measure, measure_inputs, standardised_beside
from subsetopt.data.subset import as_number, ranking
from subsetopt.data.tables.encoding import TableEncoding
from subsetopt.data.targets import Targets, absent_classes, read_targets
from subsetopt.data.weights import weighted
from subsetopt.distributed import Ranks
from subsetopt.errors import DataError, SettingError, setting, unknown_name
from subsetopt.inputs import Stored, each_part, taken
from subsetopt.seeding import derive_seed

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
    return _assemble(name, raw, task, validation_fraction, seed, normalize, ranks)


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
    return weighted(_assemble(name, raw, task, validation_fraction, seed, normalize), sample_weight)


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
    dataset = _assemble(name, raw, task, validation_fraction, seed, "none" if given.padded else normalize)
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
    train, validation = _carve(
        Split(inputs, torch.zeros(len(inputs), 1), torch.arange(len(inputs))), validation_fraction, seed, "regression"
    )
    note = "Q takes M = 1 equation per sample: the loss calls the model, and its targets are not known"
    in_shape = shape_of(predictors_of(structure))
    return Dataset("batches", "regression", in_shape, 1, train, validation, None, notes=(note,))


def validation_rows(targets: Tensor, fraction: float, seed: int, task: Task) -> Tensor:
    """Return the sorted rows that the validation split takes: max(1, round(fraction * n)) of n, none for 0.

    Stratified for classification. The last training row of a class is never taken away, which may leave the split a
    little smaller. Raises `SettingError` when nothing would be left to train on.
    """
    n = len(targets)
    size = max(1, round(fraction * n)) if fraction > 0 else 0
    if size >= n:
        remedy = f"use {setting('validation_fraction', 0)} or more data"
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
    if raw.n_classes is not None and task not in (None, "classification"):
        raise SettingError("task", task, f"{name} is a classification data set", "leave it out")
    given = {"train": raw.train, "validation": raw.validation, "test": raw.test}
    present = {part: split for part, split in given.items() if split is not None}
    raw_inputs, encoded = {part: split.inputs for part, split in present.items()}, None
    raw_targets = {part: split.targets for part, split in present.items()}
    if raw.encode is not None:
        targets = read_targets(f"{name}: ", raw_targets, task, raw.n_classes, raw.class_names, raw.trained)
        held_out = validation_rows(targets.splits["train"], validation_fraction, seed, targets.task)
        encoded = raw.encode(np.delete(np.arange(len(targets.splits["train"])), held_out.numpy()))
        raw_inputs |= encoded.inputs
    inputs = {part: checked_inputs(array, f"{name}: x_{part}", ranks) for part, array in raw_inputs.items()}
    if encoded is None:
        targets = read_targets(f"{name}: ", raw_targets, task, raw.n_classes, raw.class_names)
    splits: dict[str, Split | None] = {
        part: _split(name, part, inputs, targets.splits[part], raw_split.rows) for part, raw_split in present.items()
    }
    train = splits["train"]
    assert train is not None
    if "validation" not in splits:
        train, splits["validation"] = _carve(train, validation_fraction, seed, targets.task)
    splits["train"] = train
    for held in (inputs, raw_inputs, {} if encoded is None else encoded.inputs):
        held.clear()  # of rows that were carved, there are copies
    notes = [*raw.notes, *targets.notes, *(() if encoded is None else encoded.notes)]
    for part, split in splits.items():
        if split is not None and targets.task == "classification":
            notes += absent_classes(part, split.targets, targets.class_names)
    standardise = normalize != "none"
    return Dataset(
        name=name,
        task=targets.task,
        in_shape=shape_of(train.inputs),
        n_outputs=targets.n_outputs,
        train=train,
        validation=splits["validation"],
        test=splits.get("test"),
        normalization=_measured(train.inputs, None if encoded is None else encoded.encoding) if standardise else None,
        class_names=targets.class_names,
        notes=tuple(notes),
        target_normalization=measure(train.targets) if standardise and _are_quantities(targets) else None,
        encoding=None if encoded is None else encoded.encoding,
    )


def _are_quantities(targets: Targets) -> bool:
    return targets.task == "regression" and targets.splits["train"].is_floating_point()


def _measured(inputs: Stored, encoding: TableEncoding | None) -> Normalization | dict[str, Normalization] | None:
    """Return the statistics of inputs; columns that are 0 or 1 stay so, lest a rare word be a hundred deviations."""
    if encoding is None or not isinstance(inputs, Tensor):
        return measure_inputs(inputs)
    found = measure(inputs)
    flags = encoding.indicators
    mean = tuple(0.0 if flag else value for flag, value in zip(flags, found.mean, strict=True))
    return Normalization(mean, tuple(1.0 if flag else value for flag, value in zip(flags, found.std, strict=True)))


def shape_of(inputs: Stored) -> Any:
    """Return the shape of a sample; of several inputs that of each."""
    shapes = {key: tuple(part.shape[1:]) for key, part in each_part(inputs)}
    return shapes[None] if None in shapes else {str(key): shape for key, shape in shapes.items()}


def _split(name: str, part: str, inputs: dict[str, Stored], targets: Tensor, rows: NDArray[Any] | None) -> Split:
    """Return one split; raises `DataError` where its rows are not as many as its targets, or not as in training."""
    own, wanted = inputs[part], shape_of(inputs["train"])
    require_same_length(own, targets, f"{name}: x_{part}", f"y_{part}")
    if (found := shape_of(own)) != wanted:
        raise DataError(f"{name}: x_{part}: rows have shape {found}, those of x_train {wanted}; make them alike")
    return Split(own, targets, torch.arange(len(own)) if rows is None else torch.from_numpy(rows.astype(np.int64)))


def _carve(train: Split, fraction: float, seed: int, task: Task) -> tuple[Split, Split | None]:
    taken = validation_rows(train.targets, fraction, seed, task)
    if len(taken) == 0:
        return train, None
    kept = torch.ones(len(train), dtype=torch.bool)
    kept[taken] = False
    return _take(train, torch.nonzero(kept).flatten()), _take(train, taken)


def _take(split: Split, rows: Tensor) -> Split:
    return Split(taken(split.inputs, rows), split.targets[rows], split.rows[rows])


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
