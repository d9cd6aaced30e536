"""Split any state into named tensors and JSON-able numbers, and put it together again, bit for bit.

`split` and `join` are the only pair that checkpoints are made with. A state is a dataclass, or a mapping, of tensors,
numbers, float64 arrays, enums, generators, further dataclasses and mappings, and objects that save themselves as
torch's do, by `state_dict` and `load_state_dict`; these count as the mapping that they return.

The form on disk: a tensor is named by its path, in which a field of a dataclass follows a dot and a key of a mapping a
slash (`memory.steps`, `sampler/order`). Numbers form a dict that is nested as the mappings are; the fields of a nested
dataclass stand dotted beside those of the outer one (`budget.began`). A tensor that stands in two places is stored
once; at the other is `{"same_as": path}`, and the two are shared again after `join`.
"""

from __future__ import annotations

import copy
import dataclasses
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")

UNSAVED = {"saved": False}  # metadata of a field that `join` gets from its caller

SAME = "same_as"

_COPY: ContextVar[bool] = ContextVar("whether split and join copy tensors", default=True)


@runtime_checkable
class SavesItself(Protocol):
    """An object that holds more than its state, such as an optimizer or a sampler."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return tensors, numbers and mappings of these."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Take back what `state_dict` returned."""


def split(state: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a dataclass or mapping by path, and its numbers, which JSON keeps to the last bit.

    Tensors are copied, since solvers update ring buffers in place, unless `without_copies` says otherwise. Float64
    arrays that are fields of a dataclass become tensors of their bits (int64: not every device has float64), others
    nested lists. Raises `TypeError` for a dataclass in a mapping, which nothing says how to rebuild.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    _Splitter(tensors).take(state, "", numbers, "")
    return tensors, numbers


@contextmanager
def without_copies() -> Iterator[None]:
    """Let `split` return a state's own tensors, and `join` build a state of the tensors that it is given.

    For states that do not change while their parts are in use, and for parts that nobody else uses.
    """
    token = _COPY.set(False)
    try:
        yield
    finally:
        _COPY.reset(token)


def join(kind: type[T], tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], **given: Any) -> T:
    """Rebuild the dataclass, or `dict`, that `split` took apart.

    `given` has the fields marked `UNSAVED`, at any depth, and whatever else of the outermost dataclass exists already:
    objects that save themselves, which load what was saved of them. Raises `KeyError` for what was not saved.
    """
    owned = {name: tensor.clone() if _COPY.get() else tensor for name, tensor in tensors.items()}
    if not dataclasses.is_dataclass(kind):
        return kind(_mapping("", owned, numbers))  # type: ignore[call-arg]  # a mapping; T cannot say so
    return _build(kind, "", owned, numbers, given)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, named without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


class _Splitter:
    """Collects tensors by path, and remembers where each was met first."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors
        self._first: dict[Any, str] = {}
        self._alive: list[Tensor] = []  # a state made for saving, once freed, would lend its address to the next

    def take(self, state: Any, prefix: str, numbers: dict[str, Any], within: str) -> None:
        """Take in what stands under the path `prefix`; its numbers get names that begin with `within`."""
        for key, value in _items(state):
            name, own, plain = prefix + key, within + key, _plain(value)
            if isinstance(plain, Tensor):
                self._take_tensor(plain, name, numbers, own)
            elif dataclasses.is_dataclass(plain):
                if isinstance(state, Mapping):
                    raise TypeError(f"{name}: a dataclass in a mapping cannot be saved")
                self.take(plain, name + ".", numbers, own + ".")
            elif isinstance(plain, Mapping):
                numbers[own] = {}
                self.take(plain, name + "/", numbers[own], "")
            elif isinstance(plain, np.ndarray) and not isinstance(state, Mapping):
                self._tensors[name] = torch.from_numpy(np.array(plain, dtype=np.float64).view(np.int64))
            else:
                numbers[own] = plain.tolist() if isinstance(plain, np.ndarray) else copy.copy(plain)

    def _take_tensor(self, tensor: Tensor, name: str, numbers: dict[str, Any], own: str) -> None:
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and key in self._first:
            numbers[own] = {SAME: self._first[key]}
            return
        self._first[key] = name
        self._alive.append(tensor)
        self._tensors[name] = tensor.detach().clone() if _COPY.get() else tensor.detach()


def _items(state: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(state, Mapping):
        yield from ((str(key), value) for key, value in state.items())
        return
    for field in dataclasses.fields(state):
        if field.metadata.get("saved", True):
            yield field.name, getattr(state, field.name)


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state()
    return value.state_dict() if isinstance(value, SavesItself) else value


def _build(
    kind: type[T], prefix: str, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], given: Mapping[str, Any]
) -> T:
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # `kind` is a dataclass; T cannot say so
        name, hint = prefix + field.name, hints[field.name]
        if not field.metadata.get("saved", True):
            values[field.name] = given[field.name]
        elif not prefix and field.name in given:
            values[field.name] = _loaded(given[field.name], name, tensors, numbers)
        elif dataclasses.is_dataclass(hint):
            values[field.name] = _build(hint, name + ".", tensors, numbers, given)  # type: ignore[arg-type]  # a class
        else:
            values[field.name] = _typed(_value(name, name, tensors, numbers), hint)
    return kind(**values)


def _loaded(existing: Any, name: str, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Any:
    if isinstance(existing, SavesItself) and not isinstance(existing, Tensor):
        existing.load_state_dict(_value(name, name, tensors, numbers))
    return existing


def _value(name: str, own: str, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Any:
    """Return what was saved at the path `name`, whose number is `numbers[own]`."""
    if name in tensors:
        return tensors[name]
    value = numbers[own]
    if not isinstance(value, Mapping):
        return copy.copy(value)
    if value.keys() == {SAME}:
        return tensors[value[SAME]]
    return _mapping(name + "/", tensors, value)


def _mapping(prefix: str, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> dict[str, Any]:
    tree = {key: _value(prefix + key, key, tensors, numbers) for key in numbers}
    return tree | {key: tensor for key, tensor in under(prefix, tensors).items() if "/" not in key}


def _typed(value: Any, hint: Any) -> Any:
    """Return the value as its field declares it; what is None stays so."""
    if value is None:
        return None
    if _is_array(hint):
        # Earlier versions saved nested lists.
        bits = isinstance(value, Tensor)
        return value.cpu().numpy().view(np.float64).copy() if bits else np.array(value, dtype=np.float64)
    kinds = [kind for kind in (typing.get_args(hint) or (hint,)) if isinstance(kind, type)]
    for kind in kinds:
        if issubclass(kind, Enum):
            return kind(value)
        if kind is torch.Generator:
            generator = torch.Generator()
            generator.set_state(value.cpu())
            return generator
    return value


def _is_array(hint: Any) -> bool:
    """Tell whether `hint` is NumPy's `NDArray[...]`: a generic alias, and a named type alias from NumPy 2.5 on."""
    origin = typing.get_origin(hint)
    return origin is np.ndarray or typing.get_origin(getattr(origin, "__value__", None)) is np.ndarray
