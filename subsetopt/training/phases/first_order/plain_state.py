"""The state of any torch optimizer as nested mappings of tensors and numbers, which checkpoints hold exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from subsetopt.arguments import kind_of, plain

LIST, TUPLE, NUMBERED, NAMED, PERMUTED = "list", "tuple", "numbered", "named", "permuted"


def encode(value: Any, path: str = "state") -> Any:
    """Return `value` in plain form; raises `TypeError` in one line for what has none, with its place."""
    value = plain(value)
    if isinstance(value, Tensor):
        if value.layout is not torch.strided or value.is_quantized or value.is_complex():
            raise TypeError(f"{path} is a tensor that is sparse, quantized or complex")
        return _laid_out(value.detach())
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if type(value) in (list, tuple):
        kind = LIST if isinstance(value, list) else TUPLE
        return {kind: {str(index): encode(item, f"{path}[{index}]") for index, item in enumerate(value)}}
    if isinstance(value, Mapping):
        keys = list(value)
        if all(type(key) is int for key in keys):
            return {NUMBERED: {str(key): encode(item, f"{path}[{key}]") for key, item in value.items()}}
        if all(type(key) is str and "/" not in key for key in keys):
            return {NAMED: {key: encode(item, f"{path}[{key!r}]") for key, item in value.items()}}
        raise TypeError(f"{path} has keys that are neither whole numbers nor words")
    raise TypeError(f"{path} is {kind_of(value)}")


def decode(value: Any) -> Any:
    """Return what `encode` was given."""
    if not isinstance(value, Mapping):
        return value
    ((kind, items),) = value.items()
    if kind == PERMUTED:
        order = [int(axis) for axis in items["axes"].split()]
        return items["data"].permute([order.index(axis) for axis in range(len(order))])
    if kind in (LIST, TUPLE):
        ordered = [decode(items[str(index)]) for index in range(len(items))]
        return ordered if kind == LIST else tuple(ordered)
    return {int(key) if kind == NUMBERED else key: decode(item) for key, item in items.items()}


def _laid_out(tensor: Tensor) -> Any:
    """Return a tensor whose axes lie in memory in their own order as it is, another with the order that they have.

    Files hold tensors row by row, and products round otherwise where a matrix lies column by column, as LAPACK's do.
    """
    axes = sorted(range(tensor.ndim), key=lambda axis: -tensor.stride()[axis])
    if tensor.is_contiguous() or not tensor.permute(axes).is_contiguous():
        return tensor
    return {PERMUTED: {"axes": " ".join(map(str, axes)), "data": tensor.permute(axes)}}


def frozen(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a parameter group that cannot change in place: settings, and counts before any step."""
    changeable = (Tensor, list, dict, set)
    return {key: value for key, value in group.items() if key != "params" and not isinstance(value, changeable)}


def fitted(loaded: Any, saved: Any) -> Any:
    """Return `loaded` with the dtypes of `saved`, at every depth, on the device where it was put."""
    if isinstance(saved, Tensor):
        return saved.to(loaded.device) if isinstance(loaded, Tensor) else saved
    if isinstance(saved, Mapping):
        return {key: fitted(loaded.get(key), item) for key, item in saved.items()}
    if isinstance(saved, list | tuple):
        return type(saved)(fitted(*pair) for pair in zip(loaded, saved, strict=True))
    return saved
