"""Frames of pandas and data sets of Hugging Face (extra `tables`); reference: the arrays that they were made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from subsetopt import SubsetTrainer
from subsetopt.data import as_dataset
from subsetopt.errors import UserError
from subsetopt.inputs import LazyRows

X = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)
NAMES = ["height", "width", "depth"]


@pytest.fixture
def pandas() -> Any:
    return pytest.importorskip("pandas", reason="needs the extra `tables`")


@pytest.fixture
def datasets() -> Any:
    return pytest.importorskip("datasets", reason="needs the extra `tables`")


def _same(data: Any, reference: Any) -> None:
    for part in ("train", "validation"):
        own, wanted = getattr(data, part), getattr(reference, part)
        assert torch.equal(own.inputs[:], wanted.inputs) and torch.equal(own.targets, wanted.targets)
        assert torch.equal(own.rows, wanted.rows)
    assert data.normalization == reference.normalization


def test_frames_in_every_form_are_their_arrays_and_keep_their_names(pandas: Any) -> None:
    frame = pandas.DataFrame(X, columns=NAMES)
    reference = as_dataset((X, Y))
    whole = frame.assign(label=Y)
    for given in ((frame, pandas.Series(Y)), (frame, Y), whole, whole[["label", *NAMES]], (frame, frame.assign(y=Y).y)):
        data = as_dataset(given)
        _same(data, reference)
        assert data.columns == tuple(NAMES)
    _same(as_dataset(whole.rename(columns={"label": "class"}), targets="class"), reference)
    _same(as_dataset(whole.assign(comment="text"), inputs=NAMES), reference)
    _same(as_dataset(({"a": frame}, pandas.Series(Y))), reference)


def test_words_missing_kinds_and_several_targets_of_frames(pandas: Any) -> None:
    frame = pandas.DataFrame(X, columns=NAMES)
    words = as_dataset((frame, pandas.Series(np.where(Y == 1, "cat", "dog")).astype("category")))
    assert words.class_names == ("cat", "dog")
    own_kinds = frame.assign(depth=pandas.array(range(60), dtype="Int64"), flag=Y == 1)
    data = as_dataset((own_kinds, pandas.Series(Y, dtype="Int64")), validation_fraction=0)
    expected = np.column_stack([X[:, :2].astype(np.float64), np.arange(60), Y])
    assert torch.equal(data.train.inputs, torch.from_numpy(expected)) and data.train.targets.dtype == torch.int64
    thin = as_dataset((own_kinds.astype({"flag": pandas.SparseDtype("float64", 0.0)}), Y), validation_fraction=0)
    assert torch.equal(thin.train.inputs, torch.from_numpy(expected)), "sparse columns are columns"
    both = as_dataset(frame, targets=["height", "depth"], validation_fraction=0)
    assert both.n_outputs == 2 and both.columns == ("width",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f, pd: f.assign(width="a", label=Y), "column 'width' has dtype"),
        (lambda f, pd: f.assign(width=pd.Categorical(["a"] * 60), label=Y), "column 'width' has dtype category"),
        (lambda f, pd: f.assign(width=pd.Timestamp(0), label=Y), "column 'width' has dtype datetime"),
        (lambda f, pd: f.assign(width=[np.nan] + [1.0] * 59, label=Y), "column 'width' has 1 missing"),
        (lambda f, pd: f.assign(width=pd.array([None] + [1] * 59, dtype="Int64"), label=Y), "'width' has 1 missing"),
        (lambda f, pd: f.assign(label=[None] + ["a"] * 59), "targets 'label' have 1 missing"),
        (lambda f, pd: f, "no column is called label"),
        (lambda f, pd: f.assign(label=Y, y=Y), "label, y may all be targets"),
        (lambda f, pd: (f, pd.Series(Y)[::-1]), "different indexes"),
        (lambda f, pd: f.iloc[:0].assign(label=[]), "no rows"),
        (lambda f, pd: pd.Series(Y), "without targets"),
    ],
)
def test_frames_that_cannot_be_taken_name_the_column(pandas: Any, change: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        as_dataset(change(pandas.DataFrame(X, columns=NAMES), pandas))
    assert "\n" not in str(caught.value)


def test_predictions_take_the_columns_by_name(pandas: Any) -> None:
    frame = pandas.DataFrame(X, columns=NAMES).assign(label=Y)
    trainer = SubsetTrainer("linear", frame, max_iterations=3, handoff="none", subset_frac=0.5).fit()
    assert trainer.result["dataset"]["columns"] == NAMES
    wanted = trainer.predict(X)
    assert np.array_equal(trainer.predict(frame), wanted)
    assert np.array_equal(trainer.predict(frame[["depth", "label", "width", "height"]]), wanted)
    with pytest.raises(UserError, match="lacks the columns depth"):
        trainer.predict(frame[["height", "width"]])


def test_hugging_face_data_sets_are_their_columns(datasets: Any) -> None:
    features = datasets.Features(
        {"x": datasets.Sequence(datasets.Value("float32")), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    table = datasets.Dataset.from_dict({"x": X.tolist(), "label": Y.tolist()}, features=features)
    reference = as_dataset((X, Y))
    loader = torch.utils.data.DataLoader(table, 8, shuffle=True)
    for given in (table, table.with_format("torch"), loader, table.select(range(60))):
        _same(as_dataset(given), reference)
    assert as_dataset(table).class_names == ("no", "yes")
    lazy = as_dataset(table, max_bytes=0)
    assert isinstance(lazy.train.inputs, LazyRows)
    _same(lazy, reference)


def test_tokens_of_hugging_face_stay_whole_numbers_and_text_is_named(datasets: Any) -> None:
    ids = np.random.default_rng(1).integers(0, 9, (60, 4))
    columns = {"input_ids": ids.tolist(), "attention_mask": np.ones_like(ids).tolist(), "labels": Y.tolist()}
    data = as_dataset(datasets.Dataset.from_dict(columns), validation_fraction=0)
    assert torch.equal(data.train.inputs.part("input_ids"), torch.from_numpy(ids)) and data.normalization is None
    with pytest.raises(UserError, match=r"'text'.*leave it out"):
        as_dataset(datasets.Dataset.from_dict(columns | {"text": ["a"] * 60}))
    with pytest.raises(UserError, match="not one array of numbers"):
        as_dataset(datasets.Dataset.from_dict({"x": [[1.0] * (1 + i % 3) for i in range(60)], "label": Y.tolist()}))
    with pytest.raises(UserError, match="has the splits train"):
        as_dataset(datasets.DatasetDict({"train": datasets.Dataset.from_dict(columns)}))
    with pytest.raises(UserError, match="only be iterated"):
        as_dataset(datasets.Dataset.from_dict(columns).to_iterable_dataset())
