"""What may be given as data in Python, made a `Dataset`: exactly, or refused by its type in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from subsetopt.arguments import whole_number
from subsetopt.data.checks import as_tensor
from subsetopt.data.dataset import Dataset, Task
from subsetopt.data.given.columns import (
    Columns,
    Key,
    as_batch,
    as_stored,
    require_apart,
)
from subsetopt.data.given.map_style import read_rows
from subsetopt.data.given.reading import arrays_of, holds_arrays, map_style_of, read_given, require_no_choice
from subsetopt.data.given.tables import is_frame, is_sparse, read_sparse, targets_of
from subsetopt.data.loading import dataset_of, dataset_of_batches
from subsetopt.data.weights import weighted
from subsetopt.errors import SettingError
from subsetopt.inputs import LazyRows, Parts, Stored, as_inputs


def as_dataset(
    thing: object,
    *,
    inputs: Key | Sequence[Key] | None = None,
    targets: Key | Sequence[Key] | None = None,
    task: Task | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
    normalize: Literal["auto", "none", "standard"] = "auto",
    max_bytes: int | None = None,
    sample_weight: Any = None,
) -> Dataset:
    """Return `thing` as a `Dataset`; its training rows are all that `thing` has but the validation split.

    Taken are: a `Dataset`, as it is; a pair (x, y), each a tensor, an array, a frame or series of pandas, x also a
    sparse matrix of scipy or a tuple or dict of several arrays; a map-style `torch.utils.data.Dataset`; a `DataLoader`
    (its data set, collate function and rows; its order is ignored); a Hugging Face `Dataset`; a frame or a dict of
    arrays with a target column. Samples are pairs, tuples whose last entry is the target, or dicts with one called
    label, labels, target, targets or y; `inputs` and `targets` name others, by key or place. Whole numbers, as tokens
    are, stay so. Several inputs reach the model as `model(**inputs)` or `model(*inputs)`.

    Rows are read into memory up to `max_bytes` (default: half of what is free) and by their number, whenever they
    are needed, above; the numbers are the same. `sample_weight` has a weight for every row. The other settings are
    those of `dataset_from_arrays`.

    Raises `SettingError` and `DataError` in one line: for streams, for rows that change from one reading to the next,
    for rows of different shapes that no collate function pads.
    """
    columns = Columns(_keys("inputs", inputs), _keys("targets", targets))
    require_apart(columns.inputs or (), columns.targets or ())
    if max_bytes is not None:
        whole_number("max_bytes", max_bytes)
    if isinstance(thing, Dataset):
        require_no_choice(columns, "a Dataset")
        return weighted(thing, sample_weight)
    given = read_given(thing, columns, max_bytes)
    made = dataset_of(given, task=task, validation_fraction=validation_fraction, seed=seed, normalize=normalize)
    return weighted(made, sample_weight)


def as_samples(thing: object) -> tuple[Stored, Tensor]:
    """Return inputs and targets of a thing that `as_dataset` takes, all rows in their order, nothing standardised."""
    given = read_given(thing, Columns(), None)
    inputs = given.inputs if isinstance(given.inputs, LazyRows) else as_stored(given.inputs, "inputs")
    if given.input_name is not None and not isinstance(inputs, Parts):
        inputs = inputs.named(given.input_name) if isinstance(inputs, LazyRows) else Parts([inputs], [given.input_name])
    return inputs, as_tensor(given.targets, "targets")


def as_batches(thing: object) -> Stored:
    """Return whole samples, targets among them, as a loss takes them that calls the model itself.

    A dict or tuple stays one, also of a single entry; a frame becomes a dict of its columns. Raises as `as_dataset`.
    """
    given: Any = thing
    values = list(given.values()) if isinstance(given, Mapping) else given
    values = values if isinstance(values, tuple | list) else [values]
    if values and all(isinstance(value, Tensor | Parts | LazyRows) for value in values):
        return as_inputs(given)
    if is_frame(thing):
        return as_batch({str(name): targets_of(given[name]) for name in given.columns}, "dataset")
    if is_sparse(thing):
        return as_stored(read_sparse(thing, None), "dataset")
    if holds_arrays(thing):
        return as_batch(arrays_of(thing), "dataset")
    source, _ = map_style_of(thing)
    inputs: Stored = read_rows(source, lambda batch: (as_batch(batch, "dataset"), None), None).inputs
    return inputs


def as_dataset_of_batches(thing: object, *, validation_fraction: float = 0.1, seed: int = 0) -> Dataset:
    """Return whole samples, see `as_batches`, as the data of a run; nothing is standardised."""
    return dataset_of_batches(as_batches(thing), validation_fraction, seed)


def _keys(name: str, given: Key | Sequence[Key] | None) -> tuple[Key, ...] | None:
    if given is None:
        return None
    keys = (given,) if isinstance(given, str | int) else tuple(given)
    if not keys:
        raise SettingError(name, given, "names nothing", "name at least one entry, or leave it out")
    return keys
