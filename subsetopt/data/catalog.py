"""The registry of data sets: what a reader is asked, what it returns, and where it looks."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from subsetopt.data.tables.encoding import TableEncoding
from subsetopt.errors import DataError, setting, typed
from subsetopt.registry import Registry

_MOST_BYTES = 2**31
DATA_VARIABLE = "SUBSETOPT_DATA"


@dataclass(frozen=True)
class LearntTable:
    """What a run has learnt of a table: the encoding of its columns, and its classes by name (none for quantities)."""

    encoding: TableEncoding
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Query:
    """What the user said about where the data lie and what they mean.

    `image_size` is (height, width) for readers that resize. `target_column`, `test_file` and `drop` are for tables: the
    column to predict, a file of test rows, and columns to leave out. `task` is the task asked for.
    """

    data_dir: Path | None = None
    data_file: Path | None = None
    image_size: tuple[int, int] | None = None
    target_column: str | None = None
    test_file: Path | None = None
    drop: tuple[str, ...] = ()
    task: str | None = None
    learnt: LearntTable | None = None
    embed_words: int | None = None

    @property
    def root(self) -> Path:
        """The data directory: as given, else the environment variable SUBSETOPT_DATA, else ~/.cache/subsetopt."""
        return default_data_dir() if self.data_dir is None else self.data_dir


@dataclass(frozen=True)
class RawSplit:
    """Arrays as the publisher wrote them, unchecked; `rows` are indices into his file (None: 0 to n - 1)."""

    inputs: Any
    targets: Any
    rows: NDArray[Any] | None = None


@dataclass(frozen=True)
class Encoded:
    """Inputs by split ("train", "test") that an encoding learnt from training rows made, and notes for the user."""

    inputs: dict[str, Any]
    encoding: TableEncoding
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RawData:
    """What a reader returns. `n_classes` is None where the labels themselves tell.

    `notes` are for the user: what was skipped, what was converted. `uses` names what the reader takes from `Query`
    besides the data directory. With `encode` the splits have no inputs: it makes them once the training rows are known,
    the positions in `train` that no validation split takes. `trained`: the classes are those of a run, not of these
    rows.
    """

    train: RawSplit
    test: RawSplit | None = None
    validation: RawSplit | None = None
    n_classes: int | None = None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    encode: Callable[[NDArray[Any]], Encoded] | None = None
    trained: bool = False


Reader = Callable[[Query], RawData]

DATASETS: Registry[Reader] = Registry("dataset", "subsetopt.data.readers")


def default_data_dir() -> Path:
    """Return the data directory of a user who named none."""
    named = os.environ.get(DATA_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "subsetopt"


def not_found(dataset: str, what: str, places: Sequence[Path], root: Path) -> DataError:
    """Return the error for files of a published data set that are in none of `places`."""
    looked = ", ".join(str(place) for place in places)
    return DataError(
        f"{dataset}: {what} not found in {looked}; run `subsetopt download {dataset} --data-dir {typed(root)}` "
        f"or name the folder that has the data with {setting('data_dir')} or {DATA_VARIABLE}"
    )


def read_bytes(path: Path) -> bytes:
    """Read a whole file; raises `DataError` when the operating system refuses, and for one of 2 GiB or more."""
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise DataError(f"{path}: has {size} bytes, more than any published file of its kind; replace it")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
