"""Loaders of torch: their data set and collate function, and which rows their sampler hands out."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)
from torch.utils.data._utils.collate import default_convert

from subsetopt.data.given.columns import refused
from subsetopt.seeding import borrowed_generators

SHUFFLED = "the DataLoader's order is ignored: subsets, samplers and mini-batches draw rows by seeds of their own"
DROPPED = "the DataLoader's drop_last is ignored: every row counts"


def loader_rows(loader: DataLoader[Any]) -> tuple[Tensor, tuple[str, ...]]:
    """Return the rows of the loader's data set that a pass hands out, each once, and what is to be said of it.

    Raises `SettingError` for loaders of streams, for samplers that draw a row twice (weights, replacement), and for
    loaders that do not stack samples themselves.
    """
    if isinstance(loader.dataset, IterableDataset):
        raise streamed(loader)
    n = length(loader.dataset)
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    inner = getattr(sampler, "sampler", sampler) if type(sampler) is BatchSampler else sampler
    dropped = (DROPPED,) if loader.drop_last or getattr(sampler, "drop_last", False) else ()
    if type(inner) is SequentialSampler and length(inner.data_source) == n:
        return torch.arange(n), dropped
    if type(inner) is DistributedSampler or (
        type(inner) is RandomSampler and not inner.replacement and inner.num_samples == n
    ):
        return torch.arange(n), (SHUFFLED, *dropped)
    rows = _drawn(inner, n)
    if len(set(rows)) < len(rows):
        raise refused(
            loader,
            f"is a DataLoader whose {type(inner).__name__} draws rows more than once or by weights",
            "give its data set, and choose a sampler of subsetopt (`subsetopt list samplers`)",
        )
    if any(not 0 <= row < n for row in rows):
        raise refused(loader, f"is a DataLoader whose sampler draws rows beyond the {n} there are", "mend the sampler")
    return torch.tensor(sorted(rows), dtype=torch.int64), (SHUFFLED, *dropped)


def own_collate(loader: DataLoader[Any]) -> Any:
    """Return the loader's collate function, None for torch's own."""
    return None if loader.collate_fn in (default_collate, default_convert) else loader.collate_fn


def length(dataset: Any) -> int:
    """Return how many rows a data set has; raises `SettingError` for one that does not know."""
    try:
        return len(dataset)
    except (TypeError, NotImplementedError, AttributeError):
        raise streamed(dataset) from None


def streamed(thing: object) -> Exception:
    """Return the refusal of what can only be gone through from its beginning."""
    return refused(
        thing,
        "can only be iterated: subsets and samplers ask for rows by number",
        "read it into tensors, or give a Dataset with __len__ and __getitem__",
    )


def _drawn(sampler: Any, n: int) -> list[int]:
    """Return the rows of one pass, and not many more than there are; the generators stay where they were."""
    generator = getattr(sampler, "generator", None)
    state = generator.get_state() if isinstance(generator, torch.Generator) else None
    rows: list[int] = []
    with borrowed_generators([]):
        for drawn in islice(iter(sampler), n + 1):
            rows += [int(drawn)] if not isinstance(drawn, list | tuple | Tensor) or _single(drawn) else map(int, drawn)
    if state is not None and isinstance(generator, torch.Generator):
        generator.set_state(state)
    return rows


def _single(drawn: Any) -> bool:
    return isinstance(drawn, Tensor) and drawn.ndim == 0
