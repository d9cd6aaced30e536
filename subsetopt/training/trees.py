"""Nested dicts of tensors and numbers, taken apart for a checkpoint and put together again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


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
