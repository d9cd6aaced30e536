"""Class labels of every numbering and kind against numpy.unique; what is no set of classes is refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from subsetopt.data import Dataset, dataset_from_arrays
from subsetopt.errors import DataError, command_line

X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
Y = np.arange(60) % 3
WORDS = np.array(["cat", "dog", "émeu"])


def _load(labels: object, **settings: object) -> Dataset:
    return dataset_from_arrays(X, labels, validation_fraction=0.0, **settings)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (Y, ("0", "1", "2")),
        (Y + 1, ("1", "2", "3")),
        (np.array([10, 100, 4000])[Y], ("10", "100", "4000")),
        (np.array([-1, 0, 1])[Y], ("-1", "0", "1")),
        (np.array([5, 2**40, 2**62])[Y], ("5", str(2**40), str(2**62))),
        (np.array([1, 2, 2**64 - 1], np.uint64)[Y], ("1", "2", str(2**64 - 1))),
        (Y.astype(">i2") - 7, ("-7", "-6", "-5")),
        (WORDS[Y], ("cat", "dog", "émeu")),
        (np.array([b"A", b"B", b"\xff"])[Y], ("A", "B", "\\xff")),
        (WORDS.astype(object)[Y], ("cat", "dog", "émeu")),
        (np.array([3, 1, 2], dtype=object)[Y], ("1", "2", "3")),
        (WORDS[Y].tolist(), ("cat", "dog", "émeu")),
        (torch.from_numpy(Y) * 4 - 4, ("-4", "0", "4")),
        (np.array(["a\x1b[2J", "b", "c"])[Y], ("a\\x1b[2J", "b", "c")),
    ],
)
def test_classes_are_the_labels_that_occur(labels: object, names: tuple[str, ...]) -> None:
    data = _load(labels)
    assert (data.task, data.n_outputs, data.class_names) == ("classification", 3, names)
    expected = np.unique(np.asarray(labels), return_inverse=True)[1]
    assert data.train.targets.dtype == torch.int64 and data.train.targets.tolist() == expected.ravel().tolist()
    plain = names == ("0", "1", "2")
    assert bool(data.notes) is not plain and (plain or names[0] in data.notes[0])


def test_truth_values_are_two_classes_whatever_the_test_split_has_them_as() -> None:
    data = dataset_from_arrays(X, Y == 1, X, (Y == 1).astype(int), validation_fraction=0.0)
    assert (data.n_outputs, data.class_names) == (2, ("False", "True"))
    assert data.test is not None and torch.equal(data.test.targets, data.train.targets)


def test_whole_floats_are_classes_where_the_task_says_so_and_quantities_with_a_word_otherwise() -> None:
    labels = np.array([1.0, 2.0, 7.0])[Y]
    assert _load(labels, task="classification").class_names == ("1", "2", "7")
    data = _load(labels)
    assert data.task == "regression" and "task='classification'" in data.notes[0] and "1, 2, 7" in data.notes[0]
    with command_line(["train"]):
        assert "--task classification" in _load(labels).notes[0]
    assert not _load(labels + 0.5).notes and not _load(labels, task="classification", n_classes=8).notes[2:]


def test_a_declared_number_of_classes_stays() -> None:
    data = _load(Y, n_classes=5)
    assert (data.n_outputs, data.class_names) == (5, ("0", "1", "2", "3", "4"))
    assert any("no sample of 2 of the 5 classes: 3, 4" in note for note in data.notes)


@pytest.mark.parametrize(
    ("labels", "settings", "words"),
    [
        (np.ones(60, int), {}, "all 60 labels are 1; a classifier needs two classes"),
        (np.array(["x"] * 60), {}, "all 60 labels are x"),
        (Y, {"n_classes": 2}, "20 labels out of range 0 to 1, first 2 at row 2"),
        (Y - 1, {"n_classes": 3}, "20 labels out of range 0 to 2, first -1 at row 0"),
        (WORDS[Y], {"n_classes": 3}, "labels are words, needs the numbers 0 to 2"),
        (Y, {"n_classes": 1}, "n_classes = 1"),
        (np.array(["cat", "cat ", "dog"])[Y], {}, "'cat' and 'cat ' differ only in spaces or Unicode form"),
        (np.array(["\xe9", "e\u0301", "dog"])[Y], {}, "differ only in spaces or Unicode form"),
        (np.array(["cat", "", "dog"])[Y], {}, "20 labels are empty, first at row 1"),
        (np.array([1, "a", None], dtype=object)[Y], {}, "holds objects of the kinds NoneType, int, str"),
        (np.array([1, 2, np.nan], dtype=object)[Y], {"task": "classification"}, "20 values are NaN or infinite"),
        (np.array(["2020", "2021", "2022"], "datetime64[Y]")[Y], {}, "has dtype datetime64[Y], needs class labels"),
        (Y.astype(complex), {}, "has dtype complex128, needs class labels"),
        (np.zeros(60, [("a", "i4")]), {}, "needs class labels"),
        (WORDS[Y], {"task": "regression"}, "has dtype <U4, needs numbers"),
        (np.ma.masked_array(Y, Y == 1), {}, "has 20 masked values"),
        (Y[:, None], {}, "has shape (60, 1), needs one class label per row"),
    ],
)
def test_what_is_no_set_of_classes_is_one_line(message, labels: object, settings: dict, words: str) -> None:
    assert words in message(_load, labels, **settings)


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        (WORDS[Y], np.where(Y == 1, "cow", WORDS[Y]), "20 labels are none of the 3 classes of the training data"),
        (Y + 1, Y, "none of the 3 classes of the training data (1, 2, 3): 0, first at row 0"),
        (WORDS[Y], Y, "labels are numbers, those of y_train words"),
    ],
)
def test_a_label_of_the_test_split_that_training_lacks_is_refused(message, train, test, words: str) -> None:
    assert words in message(dataset_from_arrays, X, train, X, test)


def test_classes_absent_from_a_split_are_said() -> None:
    data = dataset_from_arrays(X, WORDS[Y], X[:2], WORDS[:2])
    assert "the test split has no sample of 1 of the 3 classes: émeu" in data.notes
    rare = dataset_from_arrays(X, np.where(np.arange(60) < 2, 7, Y)).notes
    assert "the validation split has no sample of 1 of the 4 classes: 7" in rare


@pytest.mark.parametrize(
    ("labels", "refused"),
    [
        (np.arange(60), True),
        (np.arange(60) % 11, True),
        (np.arange(60) % 10, False),
        ([f"id{row}" for row in range(60)], True),
        ([f"id{row % 4}" for row in range(60)], False),
    ],
)
def test_many_values_for_their_rows_are_no_classes_unless_the_task_says_so(labels, refused: bool) -> None:
    if refused:
        with pytest.raises(DataError, match=r"different (whole numbers|labels) in 60 rows.*task='classification'"):
            _load(labels)
    assert _load(labels, task="classification").n_outputs == len(set(np.asarray(labels).tolist()))
    numbers = np.asarray(labels).dtype.kind == "i"
    if numbers:
        assert _load(labels, task="regression").task == "regression"


def test_many_whole_numbers_with_rows_enough_are_classes_and_said_to_be() -> None:
    x, y = np.zeros((600, 1)), np.arange(600) % 30
    data = dataset_from_arrays(x, y)
    assert data.n_outputs == 30 and "30 different whole numbers are taken for 30 classes" in data.notes[0]
    assert not dataset_from_arrays(x, y, task="classification").notes
