"""What may be given as data in Python, made a `Dataset`: exactly, or refused by its type in one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from subsetopt.arguments import kind_of
from subsetopt.data.dataset import Dataset, Task
from subsetopt.data.given.columns import TARGET_NAMES, Columns, GivenSamples, Key, as_stored, divided, refused
from subsetopt.data.given.loaders import length, loader_rows, own_collate, streamed
from subsetopt.data.given.map_style import MapStyle, fetch_samples, read_rows
from subsetopt.data.given.tables import (
    is_frame,
    is_series,
    is_sparse,
    matrix_of,
    read_frame,
    read_sparse,
    require_same_index,
    targets_of,
)
from subsetopt.data.loading import dataset_of
from subsetopt.data.weights import weighted
from subsetopt.errors import SettingError
from subsetopt.inputs import LazyRows, Parts

ACCEPTED = (
    "give a pair (x, y) of tensors, arrays, frames or sparse matrices (x may be a tuple or dict of several), a torch "
    "Dataset or DataLoader, a Hugging Face Dataset, or a table with a target column"
)


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
    if isinstance(thing, Dataset):
        return weighted(thing, sample_weight)
    given = read_given(thing, Columns(_keys(inputs), _keys(targets)), max_bytes)
    made = dataset_of(given, task=task, validation_fraction=validation_fraction, seed=seed, normalize=normalize)
    return weighted(made, sample_weight)


def as_samples(thing: object) -> tuple[Any, Tensor]:
    """Return inputs and targets of a thing that `as_dataset` takes, all rows in their order, nothing standardised."""
    given = read_given(thing, Columns(), None)
    stored = given.inputs if isinstance(given.inputs, LazyRows) else as_stored(given.inputs, "inputs")
    return stored, torch.as_tensor(given.targets)


def require_readable(thing: object) -> None:
    """Raise `SettingError` for a thing whose type alone tells that `as_dataset` will not take it; nothing is read."""
    if isinstance(thing, Dataset) or is_frame(thing) or isinstance(thing, DataLoader) or is_hugging_face(thing):
        return
    if hasattr(thing, "to_pandas"):
        raise refused(thing, f"is {kind_of(thing)}, which is not taken as data", "give what its .to_pandas() returns")
    if isinstance(thing, Tensor | np.ndarray) or is_series(thing) or is_sparse(thing):
        raise refused(thing, f"is {kind_of(thing)} without targets", "give a pair (inputs, targets)")
    if isinstance(thing, type) or thing is None or isinstance(thing, str | bytes):
        raise refused(thing, f"is {kind_of(thing)}, which is not taken as data", ACCEPTED)
    if isinstance(thing, IterableDataset | Iterator) or (
        isinstance(thing, Iterable) and not hasattr(thing, "__getitem__")
    ):
        raise streamed(thing)
    if not hasattr(thing, "__getitem__"):
        raise refused(thing, f"is {kind_of(thing)}, which is not taken as data", ACCEPTED)
    if isinstance(thing, tuple) and len(thing) != 2:
        raise refused(thing, f"is {kind_of(thing)} of {_kinds(thing)}", ACCEPTED)


def read_given(thing: Any, columns: Columns, max_bytes: int | None) -> GivenSamples:
    """Return inputs and targets of a thing given as data; raises `SettingError` or `DataError` in one line."""
    require_readable(thing)
    if is_frame(thing):
        return read_frame(thing, columns)
    if is_hugging_face(thing):
        return _hugging_face(thing, columns, max_bytes)
    if isinstance(thing, DataLoader):
        return _map_style(thing, columns, max_bytes)
    if isinstance(thing, Mapping):
        return GivenSamples(*_converted(*divided(arrays_of(thing), columns, "the dict")))
    if _is_pair(thing):
        return _pair(thing[0], thing[1], max_bytes)
    if isinstance(thing, tuple):
        raise refused(thing, f"is {kind_of(thing)} of {_kinds(thing)}", ACCEPTED)
    if isinstance(thing, list) and not all(isinstance(sample, tuple | list | Mapping) for sample in thing):
        raise refused(thing, f"is {kind_of(thing)} of {_kinds(thing)}", ACCEPTED)
    return _map_style(thing, columns, max_bytes)


def _map_style(thing: Any, columns: Columns, max_bytes: int | None) -> GivenSamples:
    source, notes = map_style_of(thing)
    loader = isinstance(thing, DataLoader)
    if loader and thing.batch_sampler is None and len(source.rows):
        _require_samples(thing, columns)
    tensors = None if source.pads else _tensors(thing.dataset if loader else thing)
    if tensors is not None and len(source.rows):
        whole = len(source.rows) == len(tensors[0])
        rows = tensors if whole else [part[source.rows] for part in tensors]
        given = GivenSamples(*_converted(*divided(rows, columns, "a sample")))
    else:
        given = read_rows(source, partial(divided, columns=columns, what="a sample"), max_bytes)
    return replace(given, notes=(*given.notes, *notes))


def map_style_of(thing: Any) -> tuple[MapStyle, tuple[str, ...]]:
    """Return what reads the rows of a data set or loader, and what is to be said; raises `SettingError` for streams."""
    require_readable(thing)
    dataset, collate = thing, None
    notes: tuple[str, ...] = ()
    if isinstance(thing, DataLoader):
        dataset, collate = thing.dataset, own_collate(thing)
        rows, notes = loader_rows(thing)
    else:
        rows = torch.arange(length(thing))
    if is_hugging_face(dataset) and collate is None:
        _require_one_split(dataset)
        return MapStyle(_hugging_face_fetch(dataset), rows), notes
    return MapStyle(fetch_samples(dataset, collate), rows, pads=collate is not None), notes


def _require_samples(loader: DataLoader[Any], columns: Columns) -> None:
    """Raise `SettingError` where a loader that does not batch has a data set whose items are batches themselves."""
    sample: Any = loader.dataset[0]
    _, target = divided(sample, columns, "a sample")
    if getattr(target, "ndim", 0) > 0:
        raise refused(
            loader,
            "is a DataLoader with batch_size=None whose data set may give whole batches",
            "give the tensors, or a data set of single samples",
        )


def is_hugging_face(thing: object) -> bool:
    """Whether `thing` is a data set of Hugging Face, known by its methods."""
    return hasattr(thing, "column_names") and hasattr(thing, "with_format")


def _hugging_face(dataset: Any, columns: Columns, max_bytes: int | None) -> GivenSamples:
    given = _map_style(dataset, columns, max_bytes)
    targets = columns.targets or tuple(name for name in dataset.column_names if name in TARGET_NAMES)
    feature = (getattr(dataset, "features", None) or {}).get(targets[0]) if targets else None
    return replace(given, class_names=tuple(getattr(feature, "names", None) or ()))


def _require_one_split(dataset: Any) -> None:
    names = dataset.column_names
    if isinstance(names, Mapping) or isinstance(dataset, Mapping):
        parts = list(names) if isinstance(names, Mapping) else list(dataset)
        raise refused(dataset, f"has the splits {', '.join(map(str, parts))}", f"give one, as in data[{parts[0]!r}]")
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise streamed(dataset)


def _hugging_face_fetch(dataset: Any) -> Any:
    chosen = (getattr(dataset, "format", None) or {}).get("type")
    formatted = dataset if chosen in ("torch", "custom") else dataset.with_format("torch")
    return lambda rows: formatted[rows]


def _tensors(dataset: Any) -> list[Tensor] | None:
    """Return the tensors behind a `TensorDataset`, or a `Subset` of one; None for whatever may change its rows."""
    if type(dataset) is TensorDataset:
        return list(dataset.tensors)
    if type(dataset) is Subset:
        tensors = _tensors(dataset.dataset)
        return (
            None if tensors is None else [part[torch.as_tensor(dataset.indices, dtype=torch.int64)] for part in tensors]
        )
    return None


def _pair(x: Any, y: Any, max_bytes: int | None) -> GivenSamples:
    if is_frame(x) and (is_series(y) or is_frame(y)):
        require_same_index(x, y)
    names = tuple(map(str, x.columns)) if is_frame(x) else ()
    targets = targets_of(y) if is_series(y) else matrix_of(y) if is_frame(y) else y
    if is_sparse(x):
        return GivenSamples(read_sparse(x, max_bytes), targets)
    if is_frame(x) or is_series(x):
        return GivenSamples(matrix_of(x) if is_frame(x) else targets_of(x), targets, names)
    return GivenSamples(*_converted(arrays_of(x), targets))


def _converted(inputs: Any, targets: Any) -> tuple[Any, Any]:
    """Return several inputs as parts, checked; one array as it is, to be checked where all are."""
    return (as_stored(inputs, "inputs") if isinstance(inputs, Mapping | tuple | list) else inputs), targets


def arrays_of(given: Any) -> Any:
    """Return columns of pandas among several inputs as arrays."""
    if isinstance(given, Mapping):
        return {key: arrays_of(value) for key, value in given.items()}
    return targets_of(given) if is_series(given) else matrix_of(given) if is_frame(given) else given


def _is_pair(thing: Any) -> bool:
    """Whether a tuple or list is (inputs, targets) of all samples, not two samples."""
    if not isinstance(thing, tuple | list) or len(thing) != 2:
        return False
    x, y = thing
    several = isinstance(x, Mapping | tuple | list | Parts) and (
        isinstance(x, Parts) or all(map(_is_array, x.values() if isinstance(x, Mapping) else x))
    )
    return ((several and len(x) > 0) or _is_array(x)) and _is_array(y)


def _is_array(thing: object) -> bool:
    if hasattr(thing, "__array__") and hasattr(thing, "shape") and not isinstance(thing, np.generic):
        return True  # arrays of other libraries, h5py's among them
    return isinstance(thing, LazyRows) or is_frame(thing) or is_series(thing) or is_sparse(thing)


def _keys(given: Key | Sequence[Key] | None) -> tuple[Key, ...] | None:
    if given is None:
        return None
    keys = (given,) if isinstance(given, str | int) else tuple(given)
    if not keys:
        raise SettingError("inputs", given, "names nothing", "name at least one entry, or leave it out")
    return keys


def _kinds(things: Sequence[object]) -> str:
    more = ", ..." if len(things) > 4 else ""
    return f"({', '.join(type(thing).__name__ for thing in things[:4])}{more})"
