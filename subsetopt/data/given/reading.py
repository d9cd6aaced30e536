"""Which reader takes a thing that is given as data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from subsetopt.arguments import kind_of
from subsetopt.data.dataset import Dataset
from subsetopt.data.file_names import call_that_reads
from subsetopt.data.given.columns import (
    TARGET_NAMES,
    Columns,
    GivenSamples,
    as_stored,
    divided,
    only_name,
    refused,
)
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
from subsetopt.errors import SettingError
from subsetopt.inputs import LazyRows, Parts

ACCEPTED = (
    "give a pair (x, y) of tensors, arrays, frames or sparse matrices (x may be a tuple or dict of several), a torch "
    "Dataset or DataLoader, a Hugging Face Dataset, or a table with a target column"
)


def require_readable(thing: object) -> None:
    """Raise `SettingError` for a thing whose type alone tells that `as_dataset` will not take it; nothing is read."""
    thing = _as_pair(thing)
    if isinstance(thing, Dataset) or is_frame(thing) or isinstance(thing, DataLoader) or is_hugging_face(thing):
        return
    if hasattr(thing, "to_pandas"):
        raise refused(thing, f"is {kind_of(thing)}, which is not taken as data", "give what its .to_pandas() returns")
    if isinstance(thing, Tensor | np.ndarray) or is_series(thing) or is_sparse(thing):
        raise refused(thing, f"is {kind_of(thing)} without targets", "give a pair (inputs, targets)")
    if isinstance(thing, str | Path):
        raise SettingError("dataset", str(thing), "is a name, not data", call_that_reads(thing))
    if isinstance(thing, type) or thing is None or isinstance(thing, bytes | range | np.generic):
        raise refused(thing, f"is {kind_of(thing)}, which is not taken as data", ACCEPTED)
    if isinstance(thing, IterableDataset | Iterator) or (
        isinstance(thing, Iterable) and not hasattr(thing, "__getitem__")
    ):
        raise streamed(thing)
    if not hasattr(thing, "__getitem__"):
        raise refused(thing, f"is {kind_of(thing)}, which is not taken as data", ACCEPTED)
    if isinstance(thing, Mapping) and not any(_is_array(value) or isinstance(value, list) for value in thing.values()):
        raise refused(thing, f"is {kind_of(thing)} that has no entries that are arrays", ACCEPTED)
    samples = isinstance(thing, list) and all(isinstance(sample, tuple | list | Mapping) for sample in thing)
    if isinstance(thing, tuple | list) and not samples and not _is_pair(thing):
        raise refused(thing, f"is {kind_of(thing)} of {_kinds(thing)}", ACCEPTED)


def read_given(thing: Any, columns: Columns, max_bytes: int | None) -> GivenSamples:
    """Return inputs and targets of a thing given as data; raises `SettingError` or `DataError` in one line."""
    thing = _as_pair(thing)
    require_readable(thing)
    if is_frame(thing):
        return read_frame(thing, columns)
    if is_hugging_face(thing):
        return _hugging_face(thing, columns, max_bytes)
    if isinstance(thing, DataLoader):
        return _map_style(thing, columns, max_bytes)
    if isinstance(thing, Mapping):
        return _converted(*divided(arrays_of(thing), columns, "the dict"))
    if _is_pair(thing):
        require_no_choice(columns, "a pair (x, y)")
        return _pair(thing[0], thing[1], max_bytes)
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
        given = _converted(*divided(rows, columns, "a sample"))
    else:
        given = read_rows(source, partial(divided, columns=columns, what="a sample"), max_bytes)
    some = loader and len(source.rows) < length(thing.dataset)
    return replace(given, notes=(*given.notes, *notes), rows=source.rows if some else None)


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
        if tensors is None or not len(dataset.indices):
            return tensors if tensors is None else [part[:0] for part in tensors]
        rows = torch.as_tensor(dataset.indices, dtype=torch.int64)
        inside = -len(tensors[0]) <= int(rows.min()) and int(rows.max()) < len(tensors[0])
        return [part[rows] for part in tensors] if inside else None  # reading it says which row is not there
    return None


def _pair(x: Any, y: Any, max_bytes: int | None) -> GivenSamples:
    if is_frame(x) and (is_series(y) or is_frame(y)):
        require_same_index(x, y)
    names = tuple(map(str, x.columns)) if is_frame(x) else ()
    column = y.iloc[:, 0] if is_frame(y) and y.shape[1] == 1 else y
    targets = targets_of(column) if is_series(column) else matrix_of(y) if is_frame(y) else y
    if is_sparse(x):
        return GivenSamples(read_sparse(x, max_bytes), targets)
    if is_frame(x) or is_series(x):
        return GivenSamples(matrix_of(x) if is_frame(x) else targets_of(x), targets, names)
    return _converted(arrays_of(x), targets)


def _converted(inputs: Any, targets: Any) -> GivenSamples:
    """Return several inputs as parts, checked; one array as it is, to be checked where all are."""
    several = isinstance(inputs, Mapping | tuple | list)
    return GivenSamples(as_stored(inputs, "inputs") if several else inputs, targets, input_name=only_name(inputs))


def arrays_of(given: Any) -> Any:
    """Return columns of pandas among several inputs as arrays."""
    if isinstance(given, Mapping):
        return {key: arrays_of(value) for key, value in given.items()}
    return targets_of(given) if is_series(given) else matrix_of(given) if is_frame(given) else given


def holds_arrays(thing: Any) -> bool:
    """Whether a thing is an array of all samples, or a dict or tuple of such."""
    if isinstance(thing, Mapping | tuple | list):
        values = list(thing.values()) if isinstance(thing, Mapping) else list(thing)
        return bool(values) and all(map(_is_array, values))
    return _is_array(thing)


def _as_pair(thing: Any) -> Any:
    """Return scikit-learn's Bunch as (data, target), lists of numbers in a pair as arrays, and others as they are."""
    if type(thing).__name__ == "Bunch" and isinstance(thing, Mapping) and {"data", "target"} <= thing.keys():
        thing = (thing["data"], thing["target"])
    if isinstance(thing, tuple) and len(thing) == 2 and any(isinstance(part, list) for part in thing):
        return tuple(map(_as_array, thing))
    return thing


def _as_array(part: Any) -> Any:
    """Return a list of numbers, or of rows of numbers, as an array; a list of arrays, or of what else, as it is."""
    if not isinstance(part, list) or not part or any(_is_array(item) for item in part):
        return part
    try:
        numbers = np.asarray(part)
    except ValueError:  # rows of unequal length
        return part
    return numbers if numbers.dtype.kind in "biuf" else part


def _is_pair(thing: Any) -> bool:
    """Whether a tuple or list is (inputs, targets) of all samples, not two samples."""
    if not isinstance(thing, tuple | list) or len(thing) != 2:
        return False
    x, y = thing
    several = isinstance(x, Mapping | tuple | list | Parts) and (
        isinstance(x, Parts) or all(map(_is_array, x.values() if isinstance(x, Mapping) else x))
    )
    plain = isinstance(y, list) and bool(y) and all(isinstance(each, bool | int | float | str) for each in y)
    return ((several and len(x) > 0) or _is_array(x)) and (_is_array(y) or plain)


def _is_array(thing: object) -> bool:
    if isinstance(thing, Tensor):  # some kinds of which have no shape
        return True
    if hasattr(thing, "__array__") and hasattr(thing, "shape") and not isinstance(thing, np.generic):
        return True  # arrays of other libraries, h5py's among them
    return isinstance(thing, LazyRows) or is_frame(thing) or is_series(thing) or is_sparse(thing)


def _kinds(things: Sequence[object]) -> str:
    more = ", ..." if len(things) > 4 else ""
    return f"({', '.join(type(thing).__name__ for thing in things[:4])}{more})"


def require_no_choice(columns: Columns, what: str) -> None:
    """Raise `SettingError` for names of inputs or targets where it is clear which they are."""
    for name, chosen in (("inputs", columns.inputs), ("targets", columns.targets)):
        if chosen is not None:
            raise SettingError(name, chosen, f"has no effect on {what}", "leave it out")
