"""Data sets by name and from arrays: what task they are, and every kind of bad data in one line."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from subsetopt.data import DATASETS, dataset_from_arrays, load_dataset

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5)).astype(np.float32)
Y = np.arange(60) % 3
GOLDEN_TEST_ROWS = [11, 17, 21, 23, 24, 31, 40, 51]


def test_tasks_follow_the_targets_dtype_and_regression_targets_have_columns() -> None:
    regression = dataset_from_arrays(X, RNG.normal(size=60), X[:7], RNG.normal(size=7))
    assert (regression.task, regression.n_outputs, regression.train.targets.ndim) == ("regression", 1, 2)
    assert dataset_from_arrays(X, RNG.normal(size=(60, 4))).n_outputs == 4
    assert dataset_from_arrays(X, Y, task="regression").train.targets.is_floating_point()
    assert dataset_from_arrays(X, Y.astype(float), task="classification").train.targets.dtype == torch.int64
    assert dataset_from_arrays(X.tolist(), (Y * 5).tolist()).n_outputs == 3
    assert dataset_from_arrays(torch.from_numpy(X), torch.from_numpy(Y)).task == "classification"


def _with(array: np.ndarray, position: tuple[int, ...], value: float) -> np.ndarray:
    changed = array.astype(np.float64)
    changed[position] = value
    return changed


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ((_with(X, (7, 2), np.nan), Y), "x_train: 1 values are NaN or infinite, first nan at [7, 2]; remove"),
        ((_with(X, (3, 0), -np.inf), Y), "x_train: 1 values are NaN or infinite, first -inf at [3, 0]"),
        ((X, _with(Y, (5,), np.inf)), "y_train: 1 values are NaN or infinite, first inf at [5]"),
        ((X, Y[:-1]), "x_train has 60 rows, y_train 59; each row needs one target"),
        ((X[:, 0], Y), "x_train: has shape (60,), needs (n, features)"),
        ((X[:0], Y[:0]), "x_train: has no rows"),
        ((X[:, :0], Y), "x_train: has shape (60, 0)"),
        ((X, Y, X[:0], Y[:0]), "x_test: has no rows"),
        ((X, Y, X[:, :4], Y), "x_test: rows have shape (4,), those of x_train (5,)"),
        (
            (X, Y, X, Y + 1),
            "y_test: 20 labels are none of the 3 classes of the training data (0, 1, 2): 3, first at row 2; add",
        ),
        ((X, X, X, X[:, :2]), "y_test: has 2 columns, y_train has 5"),
        ((X, Y, X), "y_test is missing beside x_test; give both"),
        ((X.astype(object), Y), "x_train: has dtype object, needs numbers"),
        ((X.astype(complex), Y), "x_train: has dtype complex128"),
        ((X.astype(str), Y), "x_train: has dtype <U"),
        (([[1, 2], [3]], [0, 1]), "x_train: rows have different shapes"),
        ((X, np.zeros((60, 2, 2))), "y_train: has shape (60, 2, 2)"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(message, arrays: tuple, words: str) -> None:
    text = message(dataset_from_arrays, *arrays)
    assert words in text and text.startswith("arrays: ")


def test_fractional_class_labels_are_refused(message) -> None:
    text = message(dataset_from_arrays, X, Y + 0.5, task="classification")
    assert "60 class labels are not whole numbers, first 0.5 at row 0" in text and "task='regression'" in text


def test_the_first_bad_value_is_found_beyond_the_first_block(message) -> None:
    x = np.zeros((3000, 2000), np.float32)
    x[2500, 7] = x[2900, 1] = np.nan
    assert "2 values are NaN or infinite, first nan at [2500, 7]" in message(
        dataset_from_arrays, x, np.zeros(3000, int)
    )


@pytest.mark.parametrize("fraction", [-0.1, 1.0, "abc", float("nan"), True])
def test_an_unusable_validation_fraction_is_refused(message, fraction: object) -> None:
    assert message(dataset_from_arrays, X, Y, validation_fraction=fraction).startswith("validation_fraction = ")


def test_unusable_settings_are_refused_before_any_file_is_read(message) -> None:
    assert "did you mean 'mnist'" in message(load_dataset, "mnits")
    assert "did you mean 'standard'" in message(load_dataset, "mnist", normalize="standart")
    assert "validation_fraction = 0.9: would take all 2 training rows" in message(
        dataset_from_arrays, X[:2], Y[:2], validation_fraction=0.9
    )
    assert "task" in message(dataset_from_arrays, X, Y, task="ranking")
    assert "task = 'regression': digits is a classification data set" in message(
        load_dataset, "digits", task="regression"
    )
    assert "image_size" in message(load_dataset, "image-folder", image_size=0)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int64", "uint64", "float16", "float64", ">f4", ">u2", "bool", "longdouble"]
)
def test_every_real_dtype_and_memory_layout_is_read(dtype: str) -> None:
    x = np.arange(60).reshape(12, 5).astype(dtype)
    frozen = x[::-1, ::-1].copy(order="F")
    frozen.flags.writeable = False
    for array in (x, x[::-1], frozen):
        data = dataset_from_arrays(array, np.arange(12) % 2, validation_fraction=0)
        assert np.array_equal(data.train.inputs.double().numpy(), array.astype(np.float64))


def test_arrays_of_one_element_that_run_backwards_are_read() -> None:
    data = dataset_from_arrays(X[:1], np.flip(np.array([0.5])), validation_fraction=0)
    assert data.train.targets.tolist() == [[0.5]]


def test_digits_have_one_test_split_for_every_seed_and_rows_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits

    first, second = (load_dataset("digits", seed=seed) for seed in (0, 1))
    assert (first.in_shape, first.n_outputs, len(first.test.rows)) == ((1, 8, 8), 10, 359)
    assert torch.equal(first.test.rows, second.test.rows) and not torch.equal(first.train.rows, second.train.rows)
    assert first.test.rows[:8].tolist() == GOLDEN_TEST_ROWS
    published = load_digits()
    for split in (first.train, first.validation, first.test):
        assert split.inputs.dtype == torch.uint8
        assert np.array_equal(split.inputs[:, 0].numpy(), published.images[split.rows])
        assert np.array_equal(split.targets, published.target[split.rows])
    everything = torch.cat([first.train.rows, first.validation.rows, first.test.rows])
    assert torch.equal(everything.sort().values, torch.arange(1797))
    counts, share = torch.bincount(first.test.targets), np.bincount(published.target) * 359 / 1797
    assert np.abs(counts.numpy() - share).max() < 1
    assert first.normalization is not None and load_dataset("digits", normalize="none").normalization is None


def test_listing_data_sets_imports_neither_scikit_learn_nor_pillow() -> None:
    code = (
        "import sys, subsetopt.data as d; names = {e.name for e in d.DATASETS};"
        "assert not {'sklearn', 'PIL', 'matplotlib'} & set(sys.modules), sys.modules.keys(); print(*sorted(names))"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert listed == sorted(entry.name for entry in DATASETS)
    assert {"digits", "mnist", "cifar10", "cifar100", "npz", "image-folder"} <= set(listed)
