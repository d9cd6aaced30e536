"""What standardisation cannot mend, said before a run: outliers that hide a column, columns that vary elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from subsetopt.data import Dataset, Normalization, Preprocess, Split
from subsetopt.inputs import part_of

ROWS = 4096  # looked at, evenly spaced
HIDDEN = 1e-3  # deviations between the quartiles of a column, below which outliers alone make its deviation


def scale_notes(dataset: Dataset) -> list[str]:
    """Return a sentence for each kind of trouble among standardised columns of inputs (n, D) and regression targets.

    Nothing is changed: whether an outlier is a mistake or the point, only the reader knows.
    """
    notes = []
    held_out = {"validation": dataset.validation, "test": dataset.test}
    for key, by in _statistics(dataset):
        train = part_of(dataset.train.inputs, key)
        if train.ndim == 2:
            name = "x_train" if key is None else f"x_train[{key!r}]"
            seen = _standardised(train, by)
            notes += _hidden(name, seen)
            # A rare word's column may be 0 in all rows of training, and says no more than that where it is 1.
            flags = () if dataset.encoding is None else dataset.encoding.indicators
            given = [place for place, flag in enumerate(flags) if flag]
            notes += _new(name, seen, {split: _inputs(part, key) for split, part in held_out.items()}, by, given)
    if dataset.target_normalization is not None:
        seen = _standardised(dataset.train.targets, dataset.target_normalization)
        notes += _hidden("y_train", seen)
        if not bool(seen.any()):
            notes.append("y_train: all targets are alike: there is nothing to learn")
    return notes


def _statistics(dataset: Dataset) -> list[tuple[str | None, Normalization]]:
    """Return the statistics of the inputs with their keys, None for inputs of one tensor."""
    by = dataset.normalization
    return list(by.items()) if isinstance(by, dict) else [] if by is None else [(None, by)]


def _inputs(split: Split | None, key: str | None) -> Any:
    return None if split is None or len(split) == 0 else part_of(split.inputs, key)


def _standardised(values: Any, by: Normalization) -> Tensor:
    rows = torch.linspace(0, len(values) - 1, min(len(values), ROWS), device=values.device).round().long()
    seen: Tensor = Preprocess(by, torch.float64)(values[rows].double())
    return seen


def _hidden(name: str, seen: Tensor) -> list[str]:
    quartiles = torch.quantile(seen, torch.tensor([0.25, 0.75], dtype=seen.dtype, device=seen.device), dim=0)
    width = quartiles[1] - quartiles[0]
    found = torch.nonzero((width > 0) & (width < HIDDEN)).flatten().tolist()
    if not found:
        return []
    which = f"column {found[0]}" + (f" (and {len(found) - 1} more)" if len(found) > 1 else "")
    return [
        f"{name}: {which} has outliers beside which the rest is alike (half of it within {float(width[found[0]]):.1g} "
        "deviations); remove them, clip it or take its logarithm"
    ]


def _new(what: str, seen: Tensor, held_out: dict[str, Any], by: Normalization, indicators: list[int]) -> list[str]:
    constant = (seen == 0).all(0) if len(seen) else torch.zeros(0, dtype=torch.bool, device=seen.device)
    constant[indicators] = False
    for name, split in held_out.items():
        if split is None or not bool(constant.any()):
            continue
        found = torch.nonzero(constant & (_standardised(split, by) != 0).any(0)).flatten().tolist()
        if found:
            return [
                f"{what}: column {found[0]} is constant, in the {name} data it is not: what the model makes of it "
                "there is arbitrary; leave the column out"
            ]
    return []
