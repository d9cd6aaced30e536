"""What may be given as data in Python, made a `Dataset`: exactly, or refused by its type in one line."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, Subset, TensorDataset, default_collate

from subsetopt.arguments import kind_of
from subsetopt.data.dataset import Dataset, Task
from subsetopt.data.loading import dataset_from_arrays
from subsetopt.errors import SettingError

ACCEPTED = (
    "as_dataset takes a pair (x, y) of tensors or arrays, a TensorDataset of two tensors or a plain DataLoader of one; "
    "dataset_from_arrays(x, y) takes all that numpy makes an array of"
)


def as_dataset(
    thing: object,
    *,
    task: Task | None = None,
    validation_fraction: float = 0.1,
    seed: int = 0,
    normalize: Literal["auto", "none", "standard"] = "auto",
) -> Dataset:
    """Return `thing` as a `Dataset`; its training rows are all that `thing` has but the validation split.

    A `Dataset` is returned as it is. A pair (x, y) of tensors or arrays, a `TensorDataset` of two tensors, a
    `torch.utils.data.Subset` of one, and a `DataLoader` that hands out each of its rows once, unchanged, become
    `dataset_from_arrays(x, y, ...)` with the settings given. Everything else is refused: transforms, collate functions,
    weighted samplers and streams would not survive. Raises `SettingError` and `DataError` in one line.
    """
    if isinstance(thing, Dataset):
        return thing
    x, y = _pair(thing)
    return dataset_from_arrays(x, y, task=task, validation_fraction=validation_fraction, seed=seed, normalize=normalize)


def require_dataset(thing: object) -> None:
    """Raise `SettingError` unless `thing` is a `Dataset`; the remedy is what makes one of a thing of its type."""
    if isinstance(thing, Dataset):
        return
    wanted = "is {}, not a data set's name or a subsetopt Dataset"
    try:
        _pair(thing)
    except SettingError:
        raise _refused(thing, wanted.format(kind_of(thing)), "make one with dataset_from_arrays(x, y)") from None
    raise _refused(
        thing, wanted.format(kind_of(thing)), "make it one: subsetopt.data.as_dataset(...) takes what you have"
    )


def _pair(thing: object) -> tuple[Any, Any]:
    if isinstance(thing, DataLoader):
        return _pair(_loaded(thing))
    if isinstance(thing, Subset) and type(thing) is Subset:
        x, y = _pair(thing.dataset)
        rows = torch.as_tensor(thing.indices)
        return x[rows], y[rows]
    if isinstance(thing, TensorDataset) and type(thing) is TensorDataset:
        if len(thing.tensors) != 2:
            raise _refused(thing, f"is a TensorDataset of {len(thing.tensors)} tensors, inputs and targets are two")
        return thing.tensors[0], thing.tensors[1]
    if isinstance(thing, tuple | list):
        if len(thing) == 2 and all(isinstance(part, Tensor | np.ndarray) for part in thing):
            return thing[0], thing[1]
        raise _refused(thing, f"is {kind_of(thing)} of ({', '.join(map(_name, thing[:4]))}{_more(thing)})")
    raise _refused(thing, f"is {kind_of(thing)}, which is not taken as data")


def _loaded(loader: DataLoader[Any]) -> object:
    """Return the data set of a loader that hands out each of its rows once per pass, as it is."""
    sampler = loader.sampler
    each_once = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler and not sampler.replacement and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]  # a sampler by index needs a length
    )
    if loader.batch_size is None or not each_once or loader.drop_last:
        raise _refused(loader, "is a DataLoader that draws or drops rows in its own way")
    if loader.collate_fn is not default_collate:
        raise _refused(loader, "is a DataLoader with a collate function of its own")
    return loader.dataset


def _refused(thing: object, problem: str, remedy: str = ACCEPTED) -> SettingError:
    # The value itself may be a data set of gigabytes, or have a __repr__ that fails: its type says enough.
    return SettingError("dataset", type(thing), problem, remedy)


def _name(part: object) -> str:
    return part.__name__ if isinstance(part, type) else type(part).__name__


def _more(parts: tuple[Any, ...] | list[Any]) -> str:
    return ", ..." if len(parts) > 4 else ""
