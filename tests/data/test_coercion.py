"""`as_dataset`: rows and targets exactly as given, or a refusal by type. Reference: the tensors handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data import Dataset as TorchDataset

from subsetopt.data import as_dataset, dataset_from_arrays
from subsetopt.errors import SettingError

X = torch.arange(120.0).reshape(40, 3)
Y = torch.arange(40) % 2
ROWS = TensorDataset(X, Y)
DRAWN = WeightedRandomSampler(torch.ones(40), 40)


class Doubled(TensorDataset):
    """A data set that changes its rows on the way out."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        return tuple(2 * tensor[index] for tensor in self.tensors)


class Streamed(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(ROWS)


class Mapped(TorchDataset[Any]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]


TAKEN: dict[str, Callable[[], object]] = {
    "pair": lambda: (X, Y),
    "list": lambda: [X, Y],
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "tensors": lambda: ROWS,
    "loader": lambda: DataLoader(ROWS, 8),
    "shuffled": lambda: DataLoader(ROWS, 8, shuffle=True),
    "subset": lambda: Subset(TensorDataset(torch.cat([X, X]), torch.cat([Y, Y])), list(range(40, 80))),
    "loader of subset": lambda: DataLoader(Subset(ROWS, list(range(40)))),
}
REFUSED: dict[str, Callable[[], object]] = {
    "None": lambda: None,
    "number": lambda: 42,
    "inputs alone": lambda: X,
    "array": lambda: X.numpy(),
    "one tensor": lambda: TensorDataset(X),
    "four": lambda: (X, Y, X, Y),
    "lists": lambda: (X.tolist(), Y.tolist()),
    "mapping": lambda: {"x": X, "y": Y},
    "class": lambda: TensorDataset,
    "changes rows": lambda: Doubled(X, Y),
    "loader that changes rows": lambda: DataLoader(Doubled(X, Y), 8),
    "map-style": Mapped,
    "stream": lambda: DataLoader(Streamed(), 8),
    "concatenated": lambda: ConcatDataset([ROWS, ROWS]),
    "weighted": lambda: DataLoader(ROWS, 8, sampler=DRAWN),
    "drops rows": lambda: DataLoader(ROWS, 7, drop_last=True),
    "collates": lambda: DataLoader(ROWS, 8, collate_fn=lambda rows: rows),
    "own batches": lambda: DataLoader(ROWS, batch_sampler=BatchSampler(SequentialSampler(ROWS), 3, True)),
    "unbatched": lambda: DataLoader(ROWS, batch_size=None),
    "bytes": lambda: b"digits",
}


@pytest.mark.parametrize("make", TAKEN.values(), ids=TAKEN.keys())
def test_what_is_taken_has_the_rows_of_dataset_from_arrays(make: Callable[[], object]) -> None:
    taken, reference = as_dataset(make(), seed=3), dataset_from_arrays(X, Y, seed=3)
    for name in ("train", "validation"):
        mine, wanted = getattr(taken, name), getattr(reference, name)
        assert torch.equal(mine.inputs, wanted.inputs) and torch.equal(mine.targets, wanted.targets)
        assert torch.equal(mine.rows, wanted.rows)


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED.keys())
def test_everything_else_is_refused_in_one_line_that_says_what_is_taken(make: Callable[[], object]) -> None:
    with pytest.raises(SettingError, match=r"as_dataset takes a pair") as caught:
        as_dataset(make())
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_data_set_is_returned_itself_and_settings_reach_the_arrays() -> None:
    data = dataset_from_arrays(X, Y)
    assert as_dataset(data) is data
    made = as_dataset((X, Y.numpy().astype(np.float64)), validation_fraction=0.25, normalize="standard")
    assert made.task == "regression" and made.validation is not None and len(made.validation) == 10
    assert made.normalization is not None
