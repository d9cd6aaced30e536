"""Inputs alone, as a trained model is asked about them, in whatever form data may be given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from subsetopt.data.checks import checked_inputs
from subsetopt.data.dataset import Dataset
from subsetopt.data.given.columns import TARGET_NAMES, as_batch, as_stored
from subsetopt.data.given.map_style import read_rows
from subsetopt.data.given.reading import arrays_of, is_hugging_face, map_style_of
from subsetopt.data.given.tables import columns_fit, is_frame, is_series, is_sparse, matrix_of, read_sparse, targets_of
from subsetopt.data.names import listed, shown
from subsetopt.errors import DataError
from subsetopt.inputs import LazyRows, Parts, Stored, each_part

Shape = tuple[int, ...] | dict[str, tuple[int, ...]]


def raw_inputs(thing: Any, in_shape: Shape, columns: tuple[str, ...] = (), any_length: bool = False) -> Stored:
    """Return the inputs in `thing` for a model that was trained on samples of `in_shape`, checked.

    Of pairs and of dicts that have targets, too, the inputs are taken; of a frame the `columns` of the training data.
    With `any_length`, and among several inputs, sequences may be longer or shorter than those trained on.
    Raises `DataError` in one line.
    """
    keys = tuple(in_shape) if isinstance(in_shape, dict) else ()

    def divide(batch: Any) -> tuple[Any, Any]:
        return _inputs_in(batch, keys), None

    if isinstance(thing, str | Path):
        raise DataError(
            f"inputs: {shown(thing)!r} is a name, not data; read the file first, as pandas.read_csv or numpy.load does"
        )
    if isinstance(thing, Dataset):
        raise DataError(
            "inputs: is a subsetopt Dataset, which has splits; give the inputs of one, as in data.test.inputs"
        )
    if is_frame(thing):
        found: Any = columns_fit(columns, thing) if columns else thing
        found = matrix_of(found)
    elif is_sparse(thing):
        found = read_sparse(thing, None)
    elif is_series(thing):
        found = targets_of(thing)
    elif isinstance(thing, DataLoader | TorchDataset) or is_hugging_face(thing):
        found = read_rows(map_style_of(thing)[0], divide, None).inputs
    elif isinstance(thing, Mapping) or (keys and isinstance(thing, tuple | list)):
        convert = as_batch if keys else as_stored
        found = convert(_inputs_in(arrays_of(thing), keys), "inputs")
    else:
        found = thing
    checked = checked_inputs(found, "inputs")
    if len(keys) == 1 and isinstance(checked, Tensor):  # there is but one thing that it may be
        checked = Parts([checked], keys)
    return _fitting(checked, in_shape, any_length)


def is_of_tensors(thing: Any) -> bool:
    """Whether inputs were given as tensors of torch, so that predictions should be one, too."""
    if isinstance(thing, Mapping):
        return any(isinstance(value, Tensor) for value in thing.values())
    if isinstance(thing, tuple | list):
        return any(isinstance(value, Tensor) for value in thing)
    return isinstance(thing, Tensor | Parts)


def _inputs_in(batch: Any, keys: tuple[str, ...]) -> Any:
    """Return the inputs of a batch of samples, with or without their targets."""
    places = tuple(map(str, range(len(keys))))
    if isinstance(batch, Mapping):
        wanted = keys or tuple(str(key) for key in batch if str(key) not in TARGET_NAMES)
        entries = {str(key): value for key, value in batch.items()}
        if missing := [key for key in wanted if key not in entries]:
            raise DataError(f"inputs: {listed(missing)} is missing; the model was trained on {listed(keys)}")
        return {key: entries[key] for key in wanted}
    if isinstance(batch, tuple | list):
        first = batch[0]
        if keys != places or isinstance(first, Mapping | tuple | list):
            return _inputs_in(first, keys) if isinstance(first, Mapping) else first
        return tuple(batch[: len(keys)]) if keys else first
    return batch


def _fitting(found: Any, in_shape: Shape, any_length: bool) -> Stored:
    """Return inputs whose rows are like those of the training data; raises `DataError` for others."""
    structure = found.template if isinstance(found, LazyRows) else found
    shapes = in_shape.items() if isinstance(in_shape, dict) else [(None, in_shape)]
    wanted: dict[str | None, tuple[int, ...]] = dict(shapes)
    parts = dict(each_part(structure))
    if tuple(parts) != tuple(wanted):
        given = f"one tensor of shape {tuple(found.shape)}" if None in parts else f"named {listed(parts)}"
        known = "on one tensor" if None in wanted else f"on {listed(wanted)}"
        raise DataError(f"inputs: are {given}, the model was trained {known}; give it the same")
    for key, part in parts.items():
        if not _alike(tuple(part.shape[1:]), tuple(wanted[key]), part, any_length or key is not None):
            name = "inputs" if key is None else f"inputs[{key!r}]"
            raise DataError(
                f"{name}: rows have shape {tuple(part.shape[1:])}, the model was trained on {tuple(wanted[key])}; "
                "give it the same columns"
            )
    checked: Stored = found
    return checked


def _alike(shape: tuple[int, ...], wanted: tuple[int, ...], part: Tensor, any_length: bool) -> bool:
    """Whether a row has the shape wanted; sequences (of tokens, or of vectors) may have another length."""
    sequence = len(shape) == (2 if part.is_floating_point() else 1)
    if any_length and sequence and len(wanted) == len(shape):
        return shape[1:] == wanted[1:]
    return shape == wanted
