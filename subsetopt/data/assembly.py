"""From raw splits to a `Dataset`: check them, carve the validation split, measure the normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subsetopt.data.catalog import Encoded, RawData
from subsetopt.data.checks import checked_inputs, require_same_length
from subsetopt.data.dataset import Dataset, Normalization, Split, Task
from subsetopt.data.normalization import measure, measure_inputs
from subsetopt.data.subset import ranking
from subsetopt.data.tables.encoding import TableEncoding
from subsetopt.data.targets import Targets, absent_classes, read_targets
from subsetopt.distributed import Ranks
from subsetopt.errors import DataError, SettingError, setting
from subsetopt.inputs import Stored, each_part, taken
from subsetopt.seeding import derive_seed


def assemble(
    name: str,
    raw: RawData,
    task: Task | None,
    validation_fraction: float,
    seed: int,
    normalize: str,
    ranks: Ranks | None = None,
) -> Dataset:
    """Return the data set of raw splits; without a validation split, one is carved from the training rows by `seed`.

    Raises as `load_dataset` does.
    """
    if raw.n_classes is not None and task not in (None, "classification"):
        raise SettingError("task", task, f"{name} is a classification data set", "leave it out")
    splits, targets, encoded = _checked(name, raw, task, validation_fraction, seed, ranks)
    train, validation = splits.pop("train"), splits.pop("validation", None)
    if validation is None:
        train, validation = carve(train, validation_fraction, seed, targets.task)
    notes = [*raw.notes, *targets.notes, *(() if encoded is None else encoded.notes)]
    for part, split in (("train", train), ("validation", validation), ("test", splits.get("test"))):
        if split is not None and targets.task == "classification":
            notes += absent_classes(part, split.targets, targets.class_names)
    standardise = normalize != "none"
    return Dataset(
        name=name,
        task=targets.task,
        in_shape=shape_of(train.inputs),
        n_outputs=targets.n_outputs,
        train=train,
        validation=validation,
        test=splits.get("test"),
        normalization=_measured(train.inputs, None if encoded is None else encoded.encoding) if standardise else None,
        class_names=targets.class_names,
        notes=tuple(notes),
        target_normalization=measure(train.targets) if standardise and _are_quantities(targets) else None,
        encoding=None if encoded is None else encoded.encoding,
    )


def _checked(
    name: str, raw: RawData, task: Task | None, validation_fraction: float, seed: int, ranks: Ranks | None
) -> tuple[dict[str, Split], Targets, Encoded | None]:
    """Return the splits as they were given, their targets, and the encoding of a table, its inputs taken out of it."""
    given = {"train": raw.train, "validation": raw.validation, "test": raw.test}
    present = {part: split for part, split in given.items() if split is not None}
    raw_inputs, encoded = {part: split.inputs for part, split in present.items()}, None
    raw_targets = {part: split.targets for part, split in present.items()}
    if raw.encode is not None:
        targets = read_targets(f"{name}: ", raw_targets, task, raw.n_classes, raw.class_names, raw.trained)
        held_out = validation_rows(targets.splits["train"], validation_fraction, seed, targets.task)
        encoded = raw.encode(np.delete(np.arange(len(targets.splits["train"])), held_out.numpy()))
        raw_inputs |= encoded.inputs
        encoded.inputs.clear()  # of rows that are carved, there will be copies
    inputs = {part: checked_inputs(array, f"{name}: x_{part}", ranks) for part, array in raw_inputs.items()}
    if encoded is None:
        targets = read_targets(f"{name}: ", raw_targets, task, raw.n_classes, raw.class_names)
    splits = {part: _split(name, part, inputs, targets.splits[part], split.rows) for part, split in present.items()}
    return splits, targets, encoded


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


def carve(train: Split, fraction: float, seed: int, task: Task) -> tuple[Split, Split | None]:
    taken = validation_rows(train.targets, fraction, seed, task)
    if len(taken) == 0:
        return train, None
    kept = torch.ones(len(train), dtype=torch.bool)
    kept[taken] = False
    return _take(train, torch.nonzero(kept).flatten()), _take(train, taken)


def _take(split: Split, rows: Tensor) -> Split:
    return Split(taken(split.inputs, rows), split.targets[rows], split.rows[rows])
