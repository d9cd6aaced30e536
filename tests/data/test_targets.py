"""Regression targets: what is constant, and what no float32 holds, is said or refused."""

from __future__ import annotations

import numpy as np
import pytest

from subsetopt.data import dataset_from_arrays

X = np.random.default_rng(0).normal(size=(60, 5))
Y = np.random.default_rng(1).normal(size=60)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (np.full(60, 3.5), "y_train is constant to within rounding (3.5)"),
        (1e9 + 1e-6 * Y, "is constant to within rounding (1e+09)"),
        (np.zeros(60), "is constant to within rounding (0)"),
        (np.stack([Y, np.full(60, 2.0)], 1), "y_train columns 1 are constant"),
    ],
)
def test_targets_that_hardly_vary_are_said(targets: np.ndarray, words: str) -> None:
    (note,) = dataset_from_arrays(X, targets).notes
    assert words in note


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e6, 1e30])
def test_units_do_not_make_targets_constant(scale: float) -> None:
    assert dataset_from_arrays(X, scale * Y).notes == ()


@pytest.mark.parametrize(("offset", "dtype"), [(1e8, "float64"), (-1e12, "float64"), (1e4, "float32")])
def test_an_offset_makes_targets_constant_only_where_their_type_rounds_them_away(offset: float, dtype: str) -> None:
    assert dataset_from_arrays(X, (offset + Y).astype(dtype)).notes == ()
    assert "constant" in dataset_from_arrays(X, (offset * 1e9 + Y).astype(dtype)).notes[0]


@pytest.mark.parametrize(("factor", "fits"), [(1e30, True), (1e300, False), (1e39, False)])
def test_numbers_that_no_float32_holds_are_refused(message, factor: float, fits: bool) -> None:
    if fits:
        assert dataset_from_arrays(X * factor, Y * factor).task == "regression"
        return
    assert "x_train: 300 values are NaN, infinite or too large for float32" in message(
        dataset_from_arrays, np.copysign(factor, X), Y
    )
    assert "y_train: 60 values" in message(dataset_from_arrays, X, np.copysign(factor, Y))
    assert "y_train: 60 values are NaN or infinite" in message(dataset_from_arrays, X, np.full(60, np.inf))


def test_one_hot_rows_are_said_to_be_classes_in_another_framework() -> None:
    rows = np.eye(3)[np.arange(60) % 3]
    (note,) = dataset_from_arrays(X, rows).notes
    assert "one-hot" in note and "y.argmax(1)" in note
    assert dataset_from_arrays(X, np.abs(rows - 0.1)).notes == (), "shares are quantities"
