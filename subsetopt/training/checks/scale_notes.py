"""What standardisation cannot mend, said before a run: outliers that hide a column, columns that vary elsewhere."""

from __future__ import annotations

import torch
from torch import Tensor

from subsetopt.data import Dataset, Normalization, Preprocess, Split

ROWS = 4096  # looked at, evenly spaced
HIDDEN = 1e-3  # deviations between the quartiles of a column, below which outliers alone make its deviation


def scale_notes(dataset: Dataset) -> list[str]:
    """Return a sentence for each kind of trouble among standardised columns of inputs (n, D) and regression targets.

    Nothing is changed: whether an outlier is a mistake or the point, only the reader knows.
    """
    notes = []
    held_out = {"validation": dataset.validation, "test": dataset.test}
    if dataset.normalization is not None and dataset.train.inputs.ndim == 2:
        seen = _standardised(dataset.train.inputs, dataset.normalization)
        notes += _hidden("x_train", seen)
        # A rare word's column may be 0 in all rows of training, and says no more than that where it is 1.
        given = (
            []
            if dataset.encoding is None
            else [place for place, flag in enumerate(dataset.encoding.indicators) if flag]
        )
        notes += _new(seen, held_out, dataset.normalization, given)
    if dataset.target_normalization is not None:
        seen = _standardised(dataset.train.targets, dataset.target_normalization)
        notes += _hidden("y_train", seen)
        if not bool(seen.any()):
            notes.append("y_train: all targets are alike: there is nothing to learn")
    return notes


def _standardised(values: Tensor, by: Normalization) -> Tensor:
    rows = torch.linspace(0, len(values) - 1, min(len(values), ROWS), device=values.device).round().long()
    return Preprocess(by, torch.float64)(values[rows].double())


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


def _new(seen: Tensor, held_out: dict[str, Split | None], by: Normalization, indicators: list[int]) -> list[str]:
    constant = (seen == 0).all(0) if len(seen) else torch.zeros(0, dtype=torch.bool, device=seen.device)
    constant[indicators] = False
    for name, split in held_out.items():
        if split is None or len(split) == 0 or not bool(constant.any()):
            continue
        found = torch.nonzero(constant & (_standardised(split.inputs, by) != 0).any(0)).flatten().tolist()
        if found:
            return [
                f"x_train: column {found[0]} is constant, in the {name} data it is not: what the model makes of it "
                "there is arbitrary; leave the column out"
            ]
    return []
