"""Frames of pandas, known by their methods, and sparse matrices of scipy, which are made dense row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from subsetopt.data.checks import as_tensor
from subsetopt.data.given.columns import TARGET_NAMES, Columns, GivenSamples
from subsetopt.data.given.map_style import MEMORY_SHARE
from subsetopt.data.given.memory import free_bytes
from subsetopt.data.names import listed, shown
from subsetopt.errors import DataError, SettingError
from subsetopt.inputs import Inputs, LazyRows


def is_frame(thing: object) -> bool:
    """Whether `thing` is a table with named columns, as pandas has them."""
    return all(hasattr(thing, name) for name in ("columns", "iloc", "to_numpy", "dtypes"))


def is_series(thing: object) -> bool:
    """Whether `thing` is one column of such a table."""
    return all(hasattr(thing, name) for name in ("iloc", "to_numpy", "index", "dtype")) and not is_frame(thing)


def is_sparse(thing: object) -> bool:
    """Whether `thing` is a sparse matrix of scipy, in whatever format."""
    return hasattr(thing, "tocsr") and hasattr(thing, "toarray")


def read_frame(frame: Any, columns: Columns) -> GivenSamples:
    """Return the columns of a frame that holds its targets, too; raises `SettingError` where it cannot be told which.

    Every input column must hold numbers or truth values without gaps; `DataError` names the one that does not.
    """
    names = [str(name) for name in frame.columns]
    found = [name for name in names if name in TARGET_NAMES]
    if columns.targets is not None:
        targets = [str(name) for name in columns.targets]
    elif len(found) == 1:
        targets = found
    else:
        problem = f"{listed(found)} may all be targets" if found else "no column is called label, target or y"
        raise SettingError(
            "targets", None, f"the frame has {listed(names)}: {problem}", f"name it, as in targets={names[-1]!r}"
        )
    inputs = [name for name in names if name not in targets]
    inputs = inputs if columns.inputs is None else [str(name) for name in columns.inputs]
    for what, chosen in (("targets", targets), ("inputs", inputs)):
        if unknown := [name for name in chosen if name not in names]:
            raise SettingError(what, unknown[0], "the frame has no such column", f"it has {listed(names)}")
    own = [targets_of(frame.iloc[:, names.index(name)]) for name in targets]
    y = own[0] if len(own) == 1 else np.column_stack([part.astype(np.float64) for part in own])
    return GivenSamples(matrix_of(frame.iloc[:, [names.index(name) for name in inputs]]), y, tuple(inputs))


def matrix_of(frame: Any) -> NDArray[Any]:
    """Return the numbers of a frame (n, D), in the dtype that holds all its columns."""
    names = [str(name) for name in frame.columns]
    if not names:
        raise DataError("dataset: the frame has no input columns; give some")
    arrays = [_column(frame.iloc[:, place], name) for place, name in enumerate(names)]
    return np.column_stack(arrays)


def targets_of(series: Any) -> NDArray[Any]:
    """Return a series as an array: numbers, words or truth values; pandas' own kinds as those of numpy."""
    if hasattr(series, "isna") and bool(series.isna().any()):
        missing = int(series.isna().sum())
        raise DataError(f"dataset: the targets {_name(series)!r} have {missing} missing values; leave those rows out")
    values: NDArray[Any] = np.asarray(series.to_numpy())
    if values.dtype.kind == "O" and getattr(series.dtype, "kind", "O") in "biuf":
        values = values.astype(getattr(series.dtype, "numpy_dtype", np.float64))
    return values


def require_same_index(x: Any, y: Any) -> None:
    """Raise `DataError` where the rows of two tables have other labels, or another order."""
    if len(x) == len(y) and not bool((np.asarray(x.index) == np.asarray(y.index)).all()):
        raise DataError(
            "dataset: inputs and targets have different indexes, so that rows may not belong together; align them, or "
            "call .reset_index(drop=True) on both"
        )


def read_sparse(matrix: Any, max_bytes: int | None) -> Any:
    """Return a sparse matrix (n, D) as a dense array where that fits, else as rows made dense when needed."""
    shape = tuple(matrix.shape)
    if len(shape) != 2:
        raise DataError(f"dataset: the sparse inputs have shape {shape}, need (n, features)")
    limit = int(MEMORY_SHARE * free_bytes()) if max_bytes is None else max_bytes
    rows = matrix.tocsr()
    if shape[0] * shape[1] * rows.dtype.itemsize <= limit:
        return rows.toarray()

    def read(places: list[int]) -> Inputs:
        return as_tensor(rows[places].toarray(), "dataset: sparse inputs")

    return LazyRows(read, torch.arange(shape[0]), read([0]), limit)


AS_TABLE = (
    "save the frame as a file, which is read with words, dates and gaps: "
    "frame.to_csv('data.csv', index=False); load_dataset('table', data_file='data.csv', target_column=...)"
)


def _column(series: Any, name: str) -> NDArray[Any]:
    kind = getattr(series.dtype, "kind", "O")
    if kind not in "biuf":
        raise DataError(
            f"dataset: column {shown(name)!r} has dtype {series.dtype}, needs numbers; encode it "
            f"(pandas.get_dummies), leave it out, or {AS_TABLE}"
        )
    if bool(series.isna().any()):
        missing = int(series.isna().sum())
        raise DataError(
            f"dataset: column {shown(name)!r} has {missing} missing values; fill them in, drop the rows, or {AS_TABLE}"
        )
    dtype = getattr(series.dtype, "numpy_dtype", getattr(series.dtype, "subtype", series.dtype))  # nullable, sparse
    own: NDArray[Any] = series.to_numpy(dtype=dtype)
    return own


def _name(series: Any) -> str:
    return shown(getattr(series, "name", None) or "y")


def columns_fit(known: Sequence[str], frame: Any) -> Any:
    """Return the columns `known` of a frame, in that order; raises `DataError` where it lacks one."""
    names = [str(name) for name in frame.columns]
    if missing := [name for name in known if name not in names]:
        raise DataError(f"inputs: the frame lacks the columns {listed(missing)}, which the model was trained on")
    return frame.iloc[:, [names.index(name) for name in known]]
