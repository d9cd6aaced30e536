"""Split any dataclass of tensors, arrays and numbers into what a checkpoint stores, and put it together again."""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")

UNSAVED = {"saved": False}  # metadata of a field that `join` gets from its caller


def split(state: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a dataclass into named tensors and JSON-able numbers, exactly.

    Nested dataclasses contribute dotted names. A tensor that stands in two fields is stored once and is shared again
    after `join`. Tensors are copied, since solvers update ring buffers in place; float64 arrays become nested lists,
    which JSON keeps to the last bit.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    first_name: dict[tuple[int, torch.Size], str] = {}
    for name, value in _leaves(state, ""):
        if isinstance(value, Tensor):
            key = (value.data_ptr(), value.shape)
            if value.numel() and key in first_name:
                numbers[name] = {"same_as": first_name[key]}
            else:
                first_name[key] = name
                tensors[name] = value.detach().clone()
        else:
            numbers[name] = value.tolist() if isinstance(value, np.ndarray) else copy.copy(value)
    return tensors, numbers


def join(kind: type[T], tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], **unsaved: Any) -> T:
    """Rebuild the dataclass `kind` that `split` took apart; `unsaved` gives the fields marked `UNSAVED`."""
    owned = {name: tensor.clone() for name, tensor in tensors.items()}
    return _build(kind, "", owned, numbers, unsaved)


def _leaves(state: Any, prefix: str) -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for field in dataclasses.fields(state):
        if not field.metadata.get("saved", True):
            continue
        value, name = getattr(state, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            leaves += _leaves(value, name + ".")
        else:
            leaves.append((name, value))
    return leaves


def _build(
    kind: type[T], prefix: str, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], unsaved: Mapping[str, Any]
) -> T:
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # `kind` is a dataclass; T cannot say so
        name, hint = prefix + field.name, hints[field.name]
        if not field.metadata.get("saved", True):
            values[field.name] = unsaved[field.name]
        elif dataclasses.is_dataclass(hint):
            values[field.name] = _build(hint, name + ".", tensors, numbers, unsaved)  # type: ignore[arg-type]  # a class
        elif name in tensors:
            values[field.name] = tensors[name]
        else:
            values[field.name] = _number(numbers[name], hint, tensors)
    return kind(**values)


def _number(value: Any, hint: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict) and "same_as" in value:
        return tensors[value["same_as"]]
    if _is_array(hint):
        return np.array(value, dtype=np.float64)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    return copy.copy(value)


def _is_array(hint: Any) -> bool:
    """Tell whether `hint` is NumPy's `NDArray[...]`: a generic alias, and a named type alias from NumPy 2.5 on."""
    origin = typing.get_origin(hint)
    return origin is np.ndarray or typing.get_origin(getattr(origin, "__value__", None)) is np.ndarray


def split_tensors(tree: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a nested dict into a flat dict of tensors, by path, and a nested dict of JSON-able numbers."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Tensor):
            tensors[prefix + key] = value
        elif isinstance(value, Mapping):
            inner, numbers[key] = split_tensors(value, f"{prefix}{key}/")
            tensors |= inner
        else:
            numbers[key] = value
    return tensors, numbers


def join_tensors(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `split_tensors`."""
    tree: dict[str, Any] = {key: join_tensors({}, v) if isinstance(v, Mapping) else v for key, v in numbers.items()}
    for path, tensor in tensors.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = tensor
    return tree


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, named without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
