"""The embedded data set: scikit-learn's handwritten digits."""

from __future__ import annotations

import gzip
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from subsetopt.data.catalog import DATASETS, Query, RawData, RawSplit
from subsetopt.data.subset import draw

TEST_FRACTION = 0.2
_TEST_SEED = 0  # never the user's: everybody's test rows are the same


@DATASETS.register("digits", "handwritten digits, 8x8 grey, 1438 + 359, embedded (scikit-learn, UCI)")
def read_digits(query: Query) -> RawData:
    """Return the 1797 images; a fifth, stratified and the same for every seed, is the test split."""
    images, labels = _pixels_and_labels()
    chosen = draw(len(labels), fraction=TEST_FRACTION, seed=_TEST_SEED, stratify=torch.from_numpy(labels)).numpy()
    kept = np.setdiff1d(np.arange(len(labels)), chosen)
    train, test = (RawSplit(images[rows], labels[rows], rows) for rows in (kept, chosen))
    return RawData(train, test, n_classes=10, class_names=tuple("0123456789"))


@cache
def _pixels_and_labels() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the text file of scikit-learn once for all runs of a process; rows are copied when they are taken."""
    table = _table()
    return table[:, :64].astype(np.uint8).reshape(-1, 1, 8, 8), table[:, 64].astype(np.int64)


def _table() -> NDArray[Any]:
    """Return the rows of 64 pixels and a label; the file itself, since importing scikit-learn takes longest of all."""
    found = importlib.util.find_spec("sklearn")
    file = None if found is None or found.origin is None else Path(found.origin).parent / "datasets/data/digits.csv.gz"
    if file is not None and file.is_file():
        with gzip.open(file, "rt", encoding="ascii") as text:
            return np.array([line.split(",") for line in text], dtype=np.float64)
    from sklearn.datasets import load_digits  # a scikit-learn that keeps it elsewhere

    data = load_digits()
    return np.column_stack([data.data, data.target])
