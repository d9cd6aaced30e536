"""Batches of any form: tensors in tuples, lists and mappings, whose first axis is the samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from subsetopt.errors import UserError


def is_pair(batch: Any) -> bool:
    """Return whether a batch is (inputs, targets)."""
    return isinstance(batch, list | tuple) and len(batch) == 2 and not hasattr(batch, "_fields")


def tensors(batch: Any) -> Iterator[Tensor]:
    """Yield the tensors in a batch, at any depth."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors(value)
    elif isinstance(batch, list | tuple):
        for value in batch:
            yield from tensors(value)


def batch_size(batch: Any) -> int:
    """Return the samples of a batch: the length of its tensors, which must agree."""
    lengths = {len(tensor) for tensor in tensors(batch) if tensor.dim()}
    if not lengths:
        raise UserError("loader: a batch holds no tensors with an axis of samples; give a DataLoader, which makes them")
    if len(lengths) != 1:
        raise UserError(
            f"loader: tensors of a batch have lengths {sorted(lengths)}; the first axis must be the samples"
        )
    return lengths.pop()


def head(batch: Any, limit: int, count: int) -> Any:
    """Return the first `limit` of the `count` samples of a batch."""
    return batch if limit >= count else cut(batch, 0, limit)


def cut(batch: Any, start: int, stop: int) -> Any:
    """Return samples `start` to `stop` of a batch."""
    return mapped(batch, lambda tensor: tensor[start:stop] if tensor.dim() else tensor)


def moved(batch: Any, device: torch.device) -> Any:
    """Return a batch on `device`."""
    return mapped(batch, lambda tensor: tensor.to(device, non_blocking=True))


def mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a batch with every tensor changed, in its own containers; mappings become dictionaries."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {key: mapped(value, change) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        parts = [mapped(value, change) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
