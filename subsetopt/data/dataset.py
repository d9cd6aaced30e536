"""What a data set is to the rest of the library: tensors, a task, and rows that keep their index."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from subsetopt.data.tables.encoding import TableEncoding

Task = Literal["classification", "regression"]


@dataclass(frozen=True)
class Split:
    """Rows of one split: inputs `(n, ...)` in their stored dtype (uint8 for images) and targets.

    Inputs are `Stored` ones: a tensor, `Parts` of several tensors, or `LazyRows` that are read when they are needed.

    Targets are int64 `(n,)` for classification and floating `(n, M)` for regression; or int64 `(n, ...)`, labels of
    positions or several labels, for a loss given as an object. `rows[i]` is the index of
    row i in the publisher's file, so that a score credited to a row can always be traced back. `weights` (n,), float64,
    say how much each row counts, None that all count alike.
    """

    inputs: Any  # for most a tensor: nobody should have to tell it from the others
    targets: Tensor
    rows: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Normalization:
    """Standardisation `(x - mean) / std` from the training split: per channel of images `(C, H, W)`, per feature of
    vectors, per column of regression targets.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Dataset:
    """Train, validation and test splits with the facts a model and a report need.

    `in_shape` excludes the sample axis; of several inputs it has the shape of each. `n_outputs` is M, the number of
    outputs per sample (classes or target columns). `class_names[i]` is what the data call class i, as text; `notes` are
    what a run repeats in its warnings. Inputs and targets are in the units of the data; `normalization` and
    `target_normalization` say how a run standardises them, None that it takes them as they are; of several inputs it
    names those standardised. `columns` name the columns of inputs that came as a table.
    `encoding` says how the columns of a table file became inputs. `input_name` is the key of inputs that came as a dict
    of one array.
    """

    name: str
    task: Task
    in_shape: Any  # tuple[int, ...], or of several inputs a dict of those
    n_outputs: int
    train: Split
    validation: Split | None
    test: Split | None
    normalization: Normalization | dict[str, Normalization] | None = None
    class_names: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())
    target_normalization: Normalization | None = None
    encoding: TableEncoding | None = None
    columns: tuple[str, ...] = ()
    input_name: str | None = None
