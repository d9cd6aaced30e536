"""`as_dataset`: rows and targets exactly as given, or a refusal by type. Reference: the tensors handed in."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data import Dataset as TorchDataset

from subsetopt.data import Preprocess, as_batches, as_dataset, dataset_from_arrays
from subsetopt.data.digest import dataset_digest
from subsetopt.errors import SettingError, UserError
from subsetopt.inputs import LazyRows, Parts

X = torch.arange(120.0).reshape(40, 3)
Y = torch.arange(40) % 2
ROWS = TensorDataset(X, Y)
DRAWN = WeightedRandomSampler(torch.ones(40), 40)


class Streamed(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(ROWS)


class Mapped(TorchDataset[Any]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]


class HuggingFace:
    """What `datasets.Dataset` offers, as far as it is used."""

    def __init__(self, splits: tuple[str, ...] = ()) -> None:
        self.column_names: Any = dict.fromkeys(splits) if splits else ["x", "label"]

    def with_format(self, kind: str) -> HuggingFace:
        assert kind == "torch"
        return self

    def __len__(self) -> int:
        return 40

    def __getitem__(self, rows: Any) -> dict[str, torch.Tensor]:
        return {"x": X[rows], "label": Y[rows]}


class Endless(TorchDataset[Any]):
    def __getitem__(self, index: int) -> Any:
        return X[index % 40], Y[index % 40]


class Noisy(Mapped):
    """Random augmentation of one row in two, by the generator of `by`."""

    def __init__(self, by: str = "torch") -> None:
        self.draw: Callable[[], float] = {
            "torch": lambda: float(torch.rand(())),
            "numpy": np.random.rand,  # as users' transforms do
            "python": random.random,
        }[by]

    def __getitem__(self, index: int) -> Any:
        return X[index] * (1 if self.draw() < 0.5 else -1) + 1, Y[index]


class Failing(Mapped):
    def __getitem__(self, index: int) -> Any:
        if index == 39:
            raise OSError("broken file")
        return super().__getitem__(index)


def _chosen(thing: object, **settings: Any) -> object:
    return as_dataset(thing, **settings)


def _as_dict(samples: list[Any]) -> dict[str, Any]:
    return {"x": torch.stack([x for x, _ in samples]), "labels": torch.stack([y for _, y in samples])}


def _centred(samples: list[Any]) -> Any:
    x, y = (torch.stack(column) for column in zip(*samples, strict=True))
    return x - x.mean(0), y


def _halved(samples: list[Any]) -> Any:
    x, y = (torch.stack(column) for column in zip(*samples, strict=True))
    return x[::2], y[::2]


def _padded(samples: list[Any]) -> Any:
    ids = nn.utils.rnn.pad_sequence([ids for ids, _ in samples], batch_first=True)
    return {"ids": ids, "mask": ids > 0}, torch.tensor([label for _, label in samples])


TAKEN: dict[str, Callable[[], object]] = {
    "pair": lambda: (X, Y),
    "list": lambda: [X, Y],
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "tensors": lambda: ROWS,
    "loader": lambda: DataLoader(ROWS, 8),
    "shuffled": lambda: DataLoader(ROWS, 8, shuffle=True),
    "subset": lambda: Subset(TensorDataset(torch.cat([X, X]), torch.cat([Y, Y])), list(range(40, 80))),
    "loader of subset": lambda: DataLoader(Subset(ROWS, list(range(40)))),
    "map-style": Mapped,
    "concatenated": lambda: ConcatDataset([Subset(ROWS, range(20)), Subset(Mapped(), range(20, 40))]),
    "subset of a subset": lambda: Subset(Subset(Mapped(), range(40)), range(40)),
    "list of samples": lambda: [(X[i], int(Y[i])) for i in range(40)],
    "dict": lambda: {"x": X, "y": Y},
    "dict of arrays": lambda: {"features": X.numpy(), "label": Y.numpy()},
    "samples of dicts": lambda: [{"x": X[i], "target": Y[i]} for i in range(40)],
    "samples of lists": lambda: [{"x": X[i].tolist(), "target": int(Y[i])} for i in range(40)],
    "numpy samples": lambda: [(X[i].numpy(), np.int64(Y[i])) for i in range(40)],
    "drops rows": lambda: DataLoader(ROWS, 7, drop_last=True),
    "own batches": lambda: DataLoader(ROWS, batch_sampler=BatchSampler(SequentialSampler(ROWS), 3, True)),
    "unbatched": lambda: DataLoader(ROWS, batch_size=None),
    "each row once": lambda: DataLoader(ROWS, 8, sampler=WeightedRandomSampler(torch.ones(40), 40, replacement=False)),
    "collates": lambda: DataLoader(Mapped(), 8, collate_fn=_as_dict),
    "by buckets": lambda: DataLoader(ROWS, batch_sampler=[list(range(30, 40)), list(range(30))]),  # type: ignore[arg-type]  # torch takes it
    "Hugging Face": HuggingFace,
    "csr": lambda: (sparse.csr_matrix(X.numpy()), Y),
    "csc": lambda: (sparse.csc_array(X.numpy()), Y.numpy()),
    "coo": lambda: (sparse.coo_matrix(X.numpy()), Y),
}


def _nested() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.randn(2), torch.randn(3)] * 20)


class RandomTargets(Mapped):
    def __getitem__(self, index: int) -> Any:
        return X[index], torch.randint(0, 2, ())


REFUSED: dict[str, tuple[str, Callable[[], object]]] = {
    "nested": ("x_train: is nested", lambda: (_nested(), Y)),
    "nested targets": ("y_train: is nested", lambda: (X, _nested())),
    "meta": ("on the meta device", lambda: (X.to("meta"), Y)),
    "meta in a dict": ("on the meta device", lambda: {"x": X.to("meta"), "label": Y}),
    "quantised": ("is quantised", lambda: (torch.quantize_per_tensor(X, 1.0, 0, torch.qint8), Y)),
    "complex": ("complex64", lambda: (X.to(torch.complex64), Y)),
    "rows beyond the last": ("rows 0 to 1 cannot be read", lambda: Subset(ROWS, [100, 1])),
    "no rows of it": ("has no rows", lambda: Subset(ROWS, [])),
    "random targets": ("the targets of row 0 and others are not the same", RandomTargets),
    "None": ("not taken as data", lambda: None),
    "number": ("not taken as data", lambda: 42),
    "class": ("not taken as data", lambda: TensorDataset),
    "bytes": ("not taken as data", lambda: b"digits"),
    "inputs alone": ("without targets", lambda: X),
    "array": ("without targets", X.numpy),
    "sparse alone": ("without targets", lambda: sparse.csr_matrix(X.numpy())),
    "one tensor": ("inputs without a target", lambda: TensorDataset(X)),
    "samples without targets": (
        "inputs without a target",
        lambda: [{"x": X}["x"][i : i + 1].tolist() for i in range(3)],
    ),
    "four": ("a tuple of", lambda: (X, Y, X, Y)),
    "uneven lists": ("a tuple of", lambda: ([[1.0], [1.0, 2.0]], [0, 1])),
    "iterable data set": ("only be iterated", Streamed),
    "loader of a stream": ("only be iterated", lambda: DataLoader(Streamed(), 8)),
    "generator": ("only be iterated", lambda: ((X[i], Y[i]) for i in range(3))),
    "no length": ("only be iterated", Endless),
    "weighted": ("more than once or by weights", lambda: DataLoader(ROWS, 8, sampler=DRAWN)),
    "replacement": ("more than once", lambda: DataLoader(ROWS, 8, sampler=RandomSampler(ROWS, replacement=True))),
    "augmentation": ("not the same when they are read again", Noisy),
    "numpy augmentation": ("not the same when they are read again", lambda: Noisy("numpy")),
    "python augmentation": ("not the same when they are read again", lambda: Noisy("python")),
    "loader of augmentation": ("not the same when they are read again", lambda: DataLoader(Noisy(), 8)),
    "mixing collate": ("another row 0", lambda: DataLoader(Mapped(), 8, collate_fn=_centred)),
    "collate that drops": ("for 16 samples", lambda: DataLoader(Mapped(), 8, collate_fn=_halved)),
    "unbatched batches": ("batch_size=None", lambda: DataLoader([(X, Y)], batch_size=None)),  # type: ignore[arg-type]  # torch takes it
    "unequal rows": ("different shapes", lambda: [(torch.ones(1 + i % 3), 0) for i in range(9)]),
    "one None label": ("needs a value", lambda: [(X[i], None if i == 3 else 1) for i in range(9)]),
    "all None labels": ("needs a value", lambda: [(X[i], None) for i in range(9)]),
    "fails at a row": ("rows 0 to .* cannot be read", lambda: Failing()),
    "empty": ("no rows", lambda: Subset(ROWS, [])),
    "empty map-style": ("no rows", lambda: Subset(Mapped(), [])),
    "empty list": ("no rows", list),
    "text": ("is a list of a str", lambda: [({"a": X[i], "b": "text"}, 1) for i in range(9)]),
    "no target name": ("none is called label", lambda: {"a": X, "b": Y}),
    "two target names": ("may all be targets", lambda: {"x": X, "y": Y, "label": Y}),
    "parts of other lengths": ("give each a row", lambda: ({"a": X, "b": X[:5]}, Y)),
    "NaN in a part": (r"x_train\['b'\].*NaN", lambda: ({"a": X, "b": X / 0}, Y)),
    "choice on a pair": ("no effect on a pair", lambda: _chosen((X, Y), inputs="x")),
    "choice on a data set": ("no effect on a Dataset", lambda: _chosen(dataset_from_arrays(X, Y), targets="y")),
    "one entry as both": ("is chosen as the target, too", lambda: _chosen({"x": X, "y": Y}, inputs="y", targets="y")),
    "no such entry": ("has no such entry; it has x, y", lambda: _chosen({"x": X, "y": Y}, targets="z")),
    "no such place": ("has no such entry", lambda: _chosen([(X[0], 1)] * 9, targets=2)),
    "empty dict": ("has no entries", dict),
    "target alone": ("has no inputs", lambda: {"y": Y}),
    "no entries": ("names nothing", lambda: _chosen({"x": X, "y": Y}, inputs=())),
    "a size in words": ("not a whole number", lambda: _chosen((X, Y), max_bytes="1GB")),
    "an object as a sample": (
        "is no pair, tuple or dict",
        lambda: DataLoader(Mapped(), 8, collate_fn=lambda _: object()),
    ),
    "splits": ("has the splits train, test", lambda: HuggingFace(("train", "test"))),
}


@pytest.mark.parametrize("make", TAKEN.values(), ids=TAKEN.keys())
def test_what_is_taken_has_the_rows_of_dataset_from_arrays(make: Callable[[], object]) -> None:
    taken, reference = as_dataset(make(), seed=3), dataset_from_arrays(X, Y, seed=3)
    for name in ("train", "validation"):
        mine, wanted = getattr(taken, name), getattr(reference, name)
        assert torch.equal(mine.inputs, wanted.inputs) and torch.equal(mine.targets, wanted.targets)
        assert torch.equal(mine.rows, wanted.rows)


@pytest.mark.parametrize(("said", "make"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_is_in_one_line_that_says_why(said: str, make: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=said) as caught:
        as_dataset(make())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("make", [Mapped, lambda: (sparse.csr_matrix(X.numpy()), Y), HuggingFace])
def test_rows_read_when_needed_are_those_in_memory_bit_for_bit(make: Callable[[], object]) -> None:
    lazy, reference = as_dataset(make(), seed=3, max_bytes=0), dataset_from_arrays(X, Y, seed=3)
    assert isinstance(lazy.train.inputs, LazyRows) and lazy.normalization == reference.normalization
    assert torch.equal(lazy.train.inputs[:], reference.train.inputs)
    assert torch.equal(lazy.train.inputs[torch.tensor([5, 2, 5])], reference.train.inputs[torch.tensor([5, 2, 5])])
    assert dataset_digest(lazy) == dataset_digest(reference)


def test_sequences_are_padded_by_the_users_collate_function_over_all_rows() -> None:
    """Blocks are padded to lengths of their own; reference: one call of the function on all samples."""
    lengths = [1 + (7 * row) % 11 for row in range(600)]
    samples = [(torch.arange(1, length + 1), length % 2) for length in lengths]
    samples[555] = (torch.arange(1, 20), 1)
    data = as_dataset(DataLoader(samples, 8, collate_fn=_padded), validation_fraction=0)  # type: ignore[arg-type]  # as torch takes it
    wanted, labels = _padded(samples)
    assert data.in_shape == {"ids": (19,), "mask": (19,)}
    assert all(torch.equal(data.train.inputs.part(key), part) for key, part in wanted.items())
    assert torch.equal(data.train.targets, labels) and data.normalization is None
    assert data.train.inputs.part("ids").dtype == torch.int64 and data.train.inputs.part("mask").dtype == torch.bool


def test_reading_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  # what users' data sets draw from
    expected = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    as_dataset(Mapped())
    as_dataset(DataLoader(ROWS, 8, shuffle=True))
    assert (torch.rand(1), np.random.rand()) == expected  # noqa: NPY002


def test_parts_are_standardised_by_kind() -> None:
    g = torch.Generator().manual_seed(0)
    given = {
        "ids": torch.randint(0, 9, (40, 5), generator=g),
        "mask": torch.randint(0, 2, (40, 5), generator=g).float(),
        "keep": torch.ones(40, 5, dtype=torch.bool),
        "age": 50 + torch.randn(40, generator=g),
        "vector": 3 + 2 * torch.randn(40, 4, generator=g),
        "sequence": torch.randn(40, 6, 2, generator=g),
        "image": torch.randint(0, 255, (40, 3, 4, 4), generator=g, dtype=torch.uint8),
    }
    data = as_dataset((given, Y), validation_fraction=0)
    assert isinstance(data.normalization, dict) and set(data.normalization) == {"age", "vector", "image"}
    seen = Preprocess(data.normalization, torch.float64)(data.train.inputs)
    for key in ("age", "vector"):
        own = given[key].double().reshape(40, -1)
        expected = (own - own.mean(0)) / own.std(0, correction=0)
        torch.testing.assert_close(seen.part(key).reshape(40, -1), expected)
    for key in ("ids", "keep"):
        assert torch.equal(seen.part(key), given[key])
    assert torch.equal(seen.part("mask"), given["mask"].double())
    assert torch.equal(seen.part("sequence"), given["sequence"].double())


def test_targets_and_inputs_are_chosen_by_name_or_place() -> None:
    triples = [(X[i], Y[i], i) for i in range(40)]
    data = as_dataset(triples, inputs=0, targets=1, seed=3)
    assert torch.equal(data.train.inputs, as_dataset((X, Y), seed=3).train.inputs)
    named = [{"a": X[i], "b": "text", "class": Y[i]} for i in range(40)]
    data = as_dataset(named, inputs="a", targets="class", seed=3)
    assert torch.equal(data.train.targets, as_dataset((X, Y), seed=3).train.targets)


def test_rows_keep_the_numbers_that_the_data_set_has() -> None:
    """A sampler of some rows: reference, those rows of the tensors."""
    chosen = [31, 2, 17, 8, 25, 10, 39, 0]
    data = as_dataset(DataLoader(Mapped(), 4, sampler=SubsetRandomSampler(chosen)), validation_fraction=0)
    assert data.train.rows.tolist() == sorted(chosen) and torch.equal(data.train.inputs, X[data.train.rows])


def test_dtypes_that_differ_between_rows_become_the_wider_one() -> None:
    """Before: rows of two blocks in two dtypes were taken for padded ones."""
    rows = [(X[i % 40].double() if i > 300 else X[i % 40], i % 2) for i in range(400)]
    data = as_dataset(rows, validation_fraction=0)
    assert data.train.inputs.dtype == torch.float64 and data.normalization is not None
    with pytest.raises(UserError, match=r"make all rows alike|rows differ"):
        as_dataset(rows, max_bytes=0)


def test_targets_may_be_a_list_beside_an_array() -> None:
    for y in (Y.tolist(), ["a" if y else "b" for y in Y]):
        assert len(as_dataset((X, y), validation_fraction=0).train) == 40


def test_words_as_labels_of_samples_are_classes() -> None:
    data = as_dataset([(X[i], "cat" if Y[i] else "dog") for i in range(40)])
    assert data.class_names == ("cat", "dog")


def test_a_data_set_is_returned_itself_and_settings_reach_the_arrays() -> None:
    data = dataset_from_arrays(X, Y)
    assert as_dataset(data) is data
    made = as_dataset((X, Y.numpy().astype(np.float64)), validation_fraction=0.25, normalize="standard")
    assert made.task == "regression" and made.validation is not None and len(made.validation) == 10
    assert made.normalization is not None


class SeldomNoisy(Mapped):
    """Random augmentation too rare to show where some rows are read twice."""

    def __getitem__(self, index: int) -> Any:
        return X[index] * (-1 if float(torch.rand(())) < 1e-9 else 1), Y[index]


@pytest.mark.parametrize("max_bytes", [None, 100])
def test_rows_that_are_read_with_random_numbers_are_told_of(max_bytes: int | None) -> None:
    """Before, nothing was said where 16 rows came out the same twice."""
    (told,) = (note for note in as_dataset(SeldomNoisy(), max_bytes=max_bytes).notes if "random" in note)
    assert told.startswith("the data set draws random numbers when it is read")
    assert not any("random" in note for note in as_dataset(Mapped(), max_bytes=max_bytes).notes)


@pytest.mark.parametrize(
    ("make", "keys"),
    [
        (lambda: {"x": X}, ("x",)),
        (lambda: {"x": X.numpy(), "y": Y.numpy()}, ("x", "y")),
        (lambda: DataLoader(TensorDataset(X), 8), ("0",)),
        (lambda: (X.numpy(), Y), ("0", "1")),
        (lambda: X.numpy(), None),
        (lambda: [{"x": x} for x in X], ("x",)),
    ],
)
def test_whole_samples_keep_their_form(make: Callable[[], Any], keys: tuple[str, ...] | None) -> None:
    """Before, a dict or tuple of one entry became a tensor, and arrays were refused."""
    found = as_batches(make())
    if keys is None:
        assert torch.equal(found, X)
    else:
        assert isinstance(found, Parts) and found.keys == keys
        assert torch.equal(found.tensors[0], X)


def test_several_whole_numbers_per_sample_stay_what_they_are() -> None:
    labels = torch.randint(-100, 9, (40, 5))
    for given in (labels, labels.numpy(), labels.to(torch.int16)):
        data = as_dataset((X, given), validation_fraction=0)
        assert torch.equal(data.train.targets, labels) and data.task == "regression"
        assert data.n_outputs == 5 and data.target_normalization is None
    assert as_dataset((X, labels), task="regression").train.targets.is_floating_point()
    with pytest.raises(UserError, match="one class label per row"):
        as_dataset((X, labels), task="classification")


def test_bunches_of_scikit_learn_are_their_data_and_target() -> None:
    from sklearn.datasets import load_iris

    bunch = load_iris()
    given, pair = as_dataset(bunch), as_dataset((bunch.data, bunch.target))
    assert torch.equal(given.train.inputs, pair.train.inputs) and torch.equal(given.train.targets, pair.train.targets)
    assert (given.task, given.n_outputs) == ("classification", 3)


@pytest.mark.parametrize("y", [[0, 1, 0, 1, 1, 0], [0.5, 1.0, 2.0, 0.1, 0.2, 0.3], np.arange(6) % 2])
def test_lists_of_numbers_are_arrays(y: Any) -> None:
    x = [[float(row), 2.0] for row in range(6)]
    given, pair = as_dataset((x, y)), as_dataset((np.array(x), np.array(y)))
    assert torch.equal(given.train.inputs, pair.train.inputs) and torch.equal(given.train.targets, pair.train.targets)


@pytest.mark.parametrize("x", [[[1.0, 2.0], [3.0]], ["a", "b"], []])
def test_lists_of_anything_else_are_refused_in_one_line(x: Any) -> None:
    with pytest.raises(SettingError, match=r"is a tuple of \(list, ndarray\); give a pair"):
        as_dataset((x, [0, 1]))
