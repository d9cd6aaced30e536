"""What standardisation cannot mend is said, and ordinary columns are not."""

from __future__ import annotations

import numpy as np
import pytest

from subsetopt.data import dataset_from_arrays
from subsetopt.training.checks.scale_notes import scale_notes

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 4))
Y = RNG.normal(size=200)


def notes(x: np.ndarray, y: np.ndarray = Y, **changes: str) -> list[str]:
    return scale_notes(dataset_from_arrays(x[:150], y[:150], x[150:], y[150:], **changes))


def changed(column: int, rows: slice, value: float) -> np.ndarray:
    x = X.copy()
    x[rows, column] = value
    return x


@pytest.mark.parametrize(
    "x", [X, changed(1, slice(None), 7.0), (X > 1.5).astype(float), np.exp(2 * X), X * 1e-12 + 1e3]
)
def test_ordinary_rare_skewed_and_constant_columns_are_not_told(x: np.ndarray) -> None:
    assert notes(x) == []


def test_a_column_hidden_by_an_outlier_is_named() -> None:
    (note,) = notes(changed(2, slice(5, 6), 1e9))
    assert "x_train: column 2 has outliers" in note
    assert notes(changed(2, slice(5, 6), 1e9), normalize="none") == []
    y = Y.copy()
    y[3] = -1e12
    assert "y_train: column 0" in notes(X, y)[0]


def test_a_column_that_varies_in_held_out_data_alone_is_named() -> None:
    (note,) = notes(changed(3, slice(0, 150), 7.0))
    assert "column 3 is constant, in the test data it is not" in note


def test_targets_that_are_all_alike_are_told() -> None:
    assert "nothing to learn" in notes(X, np.full(200, 0.1))[0]
