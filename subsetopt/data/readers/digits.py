"""The embedded data set: scikit-learn's handwritten digits."""

from __future__ import annotations

from functools import cache

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
    from sklearn.datasets import load_digits

    data = load_digits()
    return data.images.astype(np.uint8)[:, None], data.target.astype(np.int64)
