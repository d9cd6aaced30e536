"""Which parts of a sample are inputs and which are its targets, and their conversion to tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subsetopt.arguments import kind_of
from subsetopt.data.checks import as_tensor
from subsetopt.data.names import listed
from subsetopt.errors import DataError, SettingError
from subsetopt.inputs import Inputs, Parts

TARGET_NAMES = ("labels", "label", "targets", "target", "y")
"""Names by which targets are known where none is given."""

Key = str | int


@dataclass(frozen=True)
class Columns:
    """Names (or places in a tuple) of the inputs and of the targets; None where the data tell themselves.

    Then targets are the entry called label, labels, target, targets or y, or the last one of a tuple, and inputs all
    the others.
    """

    inputs: tuple[Key, ...] | None = None
    targets: tuple[Key, ...] | None = None


@dataclass(frozen=True)
class GivenSamples:
    """Inputs and targets as they were found, for `dataset_from_arrays` and the like to check.

    `inputs` are an array, a tensor, or stored inputs of several parts or lazy rows; `targets` None where there are
    none. `columns` name the columns of a table; `class_names` are those that the data declare; `padded` says that
    a collate function made rows of different lengths alike; `rows` are their numbers where some were left out.
    `input_name` is that of inputs that came as a dict of one array.
    """

    inputs: Any
    targets: Any
    columns: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    padded: bool = False
    rows: Tensor | None = None
    input_name: str | None = None


def only_name(inputs: Any) -> str | None:
    """Return the key of a dict of one array, None for other inputs."""
    return str(next(iter(inputs))) if isinstance(inputs, Mapping) and len(inputs) == 1 else None


def refused(thing: object, problem: str, remedy: str) -> SettingError:
    """Return the refusal of a thing given as data; its type says enough, its value may be gigabytes."""
    return SettingError("dataset", type(thing), problem, remedy)


def divided(batch: Any, columns: Columns, what: str) -> tuple[Any, Any]:
    """Return inputs and targets of a sample, or of a batch of them, by their names or places; targets may be None.

    Raises `SettingError` where it cannot be told which is which.
    """
    fields = getattr(batch, "_fields", None)
    if fields is not None and (columns.targets is not None or set(fields) & set(TARGET_NAMES)):
        batch = batch._asdict()
    if isinstance(batch, Mapping):
        return _of_mapping(batch, columns, what)
    if isinstance(batch, tuple | list) and not _numbers(batch):
        return _of_tuple(batch, columns, what)
    problem = (
        "is inputs without a target" if hasattr(batch, "shape") or _is_number(batch) else "is no pair, tuple or dict"
    )
    raise SettingError("dataset", kind_of(batch), f"{what} {problem}", "make it a pair (inputs, target)")


def as_stored(inputs: Any, what: str) -> Inputs:
    """Return inputs as one tensor or as several parts; raises `DataError` for what are no numbers.

    Truth values among several parts stay so, since they are masks; a single array of them becomes uint8.
    """
    if isinstance(inputs, Parts):
        return inputs
    if isinstance(inputs, Mapping):
        if not inputs:
            raise DataError(f"{what}: has no inputs; name some with inputs=...")
        parts = [_part(value, f"{what}[{key!r}]") for key, value in inputs.items()]
        return Parts(parts, list(map(str, inputs))) if len(parts) > 1 else as_tensor(*_only(inputs, what))
    if isinstance(inputs, tuple | list) and not _numbers(inputs):
        entries = dict(enumerate(inputs))
        parts = [_part(value, f"{what}[{place}]") for place, value in entries.items()]
        return Parts(parts) if len(parts) > 1 else as_tensor(*_only(entries, what))
    return as_tensor(inputs, what)


def as_batch(given: Any, what: str) -> Inputs:
    """Return whole samples as parts: a dict or tuple stays one, also of a single entry; raises as `as_stored` does."""
    if isinstance(given, Mapping) and given:
        return Parts([_part(value, f"{what}[{key!r}]") for key, value in given.items()], list(map(str, given)))
    if isinstance(given, tuple | list) and given and not _numbers(given):
        return Parts([_part(value, f"{what}[{place}]") for place, value in enumerate(given)])
    return as_stored(given, what)


def predictors_of(batch: Inputs) -> Inputs:
    """Return what a model is likely to be called with among whole samples: all but their targets.

    Targets are entries called so, or the last one of several in a tuple; a single entry is given by itself.
    """
    if isinstance(batch, Tensor):
        return batch
    if batch.names is None:
        kept = [*batch.items()][: max(1, len(batch.tensors) - 1)]
    else:
        kept = [(key, part) for key, part in batch.items() if key not in TARGET_NAMES] or [*batch.items()]
    if batch.names is None and len(kept) == 1:
        return kept[0][1]
    return Parts([part for _, part in kept], None if batch.names is None else [key for key, _ in kept])


def _only(inputs: Mapping[Any, Any], what: str) -> tuple[Any, str]:
    ((key, value),) = inputs.items()
    return _numeric(value, f"{what}[{key!r}]"), f"{what}[{key!r}]"


def _part(value: Any, what: str) -> Tensor:
    value = _numeric(value, what)
    if isinstance(value, Tensor) and value.dtype == torch.bool:
        return value.detach().cpu()
    if getattr(value, "dtype", None) == np.bool_:
        return torch.from_numpy(np.ascontiguousarray(value))
    return as_tensor(value, what)


def _numeric(value: Any, what: str) -> Any:
    listed_things = isinstance(value, tuple | list) and not _numbers(value)
    text = isinstance(value, np.ndarray) and value.dtype.kind not in "buifc"
    if not (listed_things or text or isinstance(value, Mapping | str)):
        return value
    inner = f" of {kind_of(value[0])}" if listed_things and len(value) else ""
    raise DataError(
        f"{what}: is {kind_of(value)}{inner}, not one array of numbers; leave it out (inputs=...), "
        "or pad and stack it to one"
    )


def _numbers(values: Sequence[Any]) -> bool:
    """Whether a list is one array of plain numbers, not several things."""
    return len(values) > 0 and all(map(_is_number, values))


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float | np.number)


def _of_mapping(batch: Mapping[Any, Any], columns: Columns, what: str) -> tuple[Any, Any]:
    names = [str(name) for name in batch]
    if not names:
        raise SettingError("dataset", "{}", f"{what} has no entries", "give inputs and targets")
    entries = dict(zip(names, batch.values(), strict=True))
    targets = columns.targets
    found = tuple(name for name in names if name in TARGET_NAMES)
    if targets is None:
        if len(found) != 1:
            problem = f"{what} has {listed(names)}: " + (
                f"{listed(found)} may all be targets" if found else "none is called label, target or y"
            )
            raise SettingError("targets", None, problem, f"name it, as in targets={(found or names)[-1]!r}")
        targets = found
    _require_known("targets", targets, names, what)
    if columns.inputs is not None:
        _require_known("inputs", columns.inputs, names, what)
    inputs = [name for name in names if name not in targets] if columns.inputs is None else map(str, columns.inputs)
    return {name: entries[name] for name in inputs}, _joined_targets([entries[str(name)] for name in targets])


def _of_tuple(batch: Sequence[Any], columns: Columns, what: str) -> tuple[Any, Any]:
    places = range(len(batch))
    if len(batch) < 2:
        raise SettingError(
            "dataset", f"{len(batch)} entries", f"{what} is inputs without a target", "make it a pair (inputs, target)"
        )
    targets = (len(batch) - 1,) if columns.targets is None else columns.targets
    _require_known("targets", targets, places, what)
    chosen = tuple(place for place in places if place not in targets) if columns.inputs is None else columns.inputs
    _require_known("inputs", chosen, places, what)
    inputs: Any = tuple(batch[place] for place in chosen if isinstance(place, int))
    own = [batch[place] for place in targets if isinstance(place, int)]
    return (inputs[0] if len(inputs) == 1 else inputs), _joined_targets(own)


def _joined_targets(found: list[Any]) -> Any:
    """Return the only target, or several as the columns of one array."""
    if len(found) < 2:
        return found[0] if found else None
    return np.stack([np.asarray(column, dtype=np.float64) for column in found], axis=-1)


def require_apart(inputs: Sequence[Key], targets: Sequence[Key]) -> None:
    """Raise `SettingError` for an entry that is chosen as an input and as a target."""
    for key in inputs:
        if key in targets:
            raise SettingError("inputs", key, "is chosen as the target, too", "leave it out of one of them")


def _require_known(name: str, given: Sequence[Key], known: Sequence[Key], what: str) -> None:
    for key in given:
        if key not in known:
            raise SettingError(name, key, f"{what} has no such entry", f"it has {listed(map(str, known))}")
