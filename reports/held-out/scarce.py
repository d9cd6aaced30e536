"""Held-out cells with few rows, noisy labels or a rare class; see the third list of `stream-cells.md`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from stream import Made, arrays, images, table

from subsetopt.data import Dataset, dataset_from_arrays, load_dataset


def scarce_cells(data: Path) -> dict[str, Callable[[], Made]]:
    """Return the makers of the cells."""
    csvs, relu = data / "tabular", {"activation": "relu"}
    price = "median_house_value"
    return {
        "letter Z": lambda: (
            one_class(table(csvs / "letter.csv", "class", 4000, 8000), 25),
            "mlp",
            {"widths": (32,)},
            2.0,
        ),
        "adult, 3000 rows": lambda: (
            table(csvs / "adult-train.csv", "income", 3000, 8000),
            "mlp",
            {"widths": (32, 32)},
            4.0,
        ),
        "digits, 30 % of labels": lambda: (flipped(digits(), 0.3, 10), "mlp", {"widths": (32,)}, 4.0),
        "MNIST, 20 % of labels": lambda: (
            flipped(images("mnist", 3000, 5000, data), 0.2, 10),
            "mlp",
            {"widths": (64,), **relu},
            4.0,
        ),
        "dearest houses": lambda: (
            beyond(table(csvs / "california_housing.csv", price, 6000, 8000), 0.98),
            "mlp",
            {"widths": (32,)},
            2.0,
        ),
        "protein, 2000 rows": lambda: (table(csvs / "protein.csv", "y", 2000, 8000), "mlp", {"widths": (32,)}, 4.0),
        "farthest 1 % of kin8nm": lambda: (
            beyond(table(csvs / "kin8nm.csv", "y", 5000, 3000), 0.99),
            "mlp",
            {"widths": (32, 32)},
            2.0,
        ),
        "CIFAR-10, frogs": lambda: (one_class(images("cifar10", 5000, 5000, data), 6), "cnn", relu, 1.0),
    }


def digits() -> Dataset:
    """Return scikit-learn's digits."""
    return load_dataset("digits", data_dir=None, data_file=None, validation_fraction=0.0, seed=0, normalize="auto")


def one_class(given: Dataset, number: int) -> Dataset:
    """Ask whether a sample is of this class."""
    return _labelled(given, *(part == number for part in _targets(given)))


def beyond(given: Dataset, share: float) -> Dataset:
    """Ask whether the target is among the largest, beyond so large a share of those for training."""
    train, test = _targets(given)
    level = torch.quantile(train.double(), share)
    return _labelled(given, train >= level, test >= level)


def flipped(given: Dataset, share: float, classes: int) -> Dataset:
    """Replace a share of the labels for training by any; those of the test stay."""
    train, test = _targets(given)
    g, train = np.random.default_rng(0), train.clone()
    rows = torch.as_tensor(g.permutation(len(train))[: round(share * len(train))])
    train[rows] = torch.as_tensor(g.integers(0, classes, len(rows)))
    return _labelled(given, train, test)


def _targets(given: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    assert given.test is not None, "every cell has a test split"
    return given.train.targets.flatten(), given.test.targets.flatten()


def _labelled(given: Dataset, train: torch.Tensor, test: torch.Tensor) -> Dataset:
    assert given.test is not None, "every cell has a test split"
    inputs, test_inputs = given.train.inputs, given.test.inputs
    if inputs.dtype == torch.uint8:
        return dataset_from_arrays(inputs, train.long(), test_inputs, test.long())
    x = torch.cat([torch.as_tensor(inputs), torch.as_tensor(test_inputs)])
    return arrays(x, torch.cat([train.long(), test.long()]), len(train), task="classification")
