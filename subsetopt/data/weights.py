"""Weights of samples: checked once, and kept beside the rows that they belong to."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from subsetopt.arguments import kind_of
from subsetopt.data.dataset import Dataset, Split
from subsetopt.errors import DataError

_LARGE = 1e30  # beyond which a sum of weights, or its inverse, may overflow float32


def checked_weights(weights: Any, samples: int, name: str = "sample_weight") -> Tensor | None:
    """Return `weights` as float64 `(samples,)` on the CPU, None where there are none.

    Raises `DataError` for another shape, and for weights that are negative, NaN, infinite or all zero.
    """
    if weights is None:
        return None
    try:
        tensor = weights.detach() if isinstance(weights, Tensor) else torch.as_tensor(weights)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"{name}: is {kind_of(weights)}; give one number per sample, shape ({samples},)") from None
    if tensor.is_complex() or tensor.shape != (samples,):
        given = f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
        raise DataError(f"{name}: {given}; give one real number per sample, shape ({samples},)")
    tensor = tensor.cpu().double()
    bad = ~((tensor >= 0) & tensor.isfinite())
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        raise DataError(
            f"{name}: {float(tensor[row]):g} in row {row}; weights are finite and not negative (0 leaves a sample out)"
        )
    if not bool(tensor.any()):
        raise DataError(f"{name}: all {samples} weights are 0; nothing is left to train on")
    largest = float(tensor.max())
    # Only ratios matter, and a power of two keeps them to the last bit.
    return tensor if 1 / _LARGE < largest < _LARGE else tensor / math.ldexp(1.0, math.frexp(largest)[1] - 1)


def weighted(dataset: Dataset, weights: Any) -> Dataset:
    """Return `dataset` whose training and validation rows weigh what `weights` say; as it is where they are None.

    `weights` has a number for every row that the data came with, before a validation split was taken from them.
    """
    carved = dataset.validation if dataset.validation is not None and _shares_rows(dataset) else None
    checked = checked_weights(weights, len(dataset.train) + (0 if carved is None else len(carved)))
    if checked is None:
        return dataset

    def of(split: Split) -> Split:
        return replace(split, weights=checked[split.rows.cpu()])

    if not bool(checked[dataset.train.rows.cpu()].any()):
        raise DataError("sample_weight: all training rows have the weight 0; nothing is left to train on")
    return replace(dataset, train=of(dataset.train), validation=dataset.validation if carved is None else of(carved))


def _shares_rows(dataset: Dataset) -> bool:
    """Whether the validation split was taken from the training rows, and not given."""
    assert dataset.validation is not None, "asked of data that have one"
    together = torch.cat([dataset.train.rows, dataset.validation.rows])
    return len(together.unique()) == len(together)
