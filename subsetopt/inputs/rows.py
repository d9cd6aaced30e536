"""Inputs that are read when their rows are asked for, in place of being held in memory."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from subsetopt.arguments import kind_of
from subsetopt.errors import DataError
from subsetopt.inputs.parts import Inputs, Parts

Reader = Callable[[list[int]], Inputs]
"""Row numbers -> the inputs of these rows, in this order."""

BLOCK = 256
"""Rows that a reader is asked for at once."""


class LazyRows:
    """Inputs `(n, ...)` that `read` fetches by row: bit for bit what they would be in memory.

    Taken like a tensor by slices and by row numbers; `template` are the inputs of one row, by which every row read
    is checked. `limit` bounds the bytes of a piece that may be kept in memory. Rows are read by one thread at a time.
    Raises `DataError` where a row has another shape or dtype than the template.
    """

    def __init__(self, read: Reader, rows: Tensor, template: Inputs, limit: float = math.inf) -> None:
        self._read, self._rows, self.template, self.limit = read, rows.cpu(), template[:1], limit
        self._alone = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, tuple):  # one number: (row, column, ...)
            piece = self[rows[0] : rows[0] + 1]
            return piece[(0, *rows[1:])]
        wanted: list[int] = self._rows[rows.cpu() if isinstance(rows, Tensor) else rows].tolist()
        if not wanted:
            return self.template[:0]
        pieces = [self._fetched(wanted[start : start + BLOCK]) for start in range(0, len(wanted), BLOCK)]
        return joined(pieces)

    def take(self, rows: Tensor) -> LazyRows:
        """Return these rows, still to be read."""
        return LazyRows(self._read, self._rows[rows.cpu()], self.template, self.limit)

    def part(self, key: str) -> LazyRows:
        """Return one part of inputs that have several."""

        def read(rows: list[int]) -> Inputs:
            found = self._read(rows)
            assert isinstance(found, Parts), "its template has parts"
            return found.part(key)

        assert isinstance(self.template, Parts), "only such inputs have parts"
        return LazyRows(read, self._rows, self.template.part(key), self.limit)

    def named(self, key: str) -> LazyRows:
        """Return a single input as a part of this key."""
        return LazyRows(
            lambda rows: Parts([self._fetch_single(rows)], [key]), self._rows, Parts([self._single], [key]), self.limit
        )

    def to(
        self, device: torch.device | str, dtype: torch.dtype | None = None, *, non_blocking: bool = False
    ) -> LazyRows:
        """Return the same: what is read is on the host."""
        return self

    @property
    def device(self) -> torch.device:
        """Where rows are read to."""
        return torch.device("cpu")

    @property
    def nbytes(self) -> int:
        """What all rows would take in memory."""
        return len(self) * self.template.nbytes

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of a single input tensor."""
        return self._single.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a single input tensor with all its rows."""
        return (len(self), *self._single.shape[1:])

    @property
    def ndim(self) -> int:
        """The number of axes of a single input tensor."""
        return self._single.ndim

    def numel(self) -> int:
        """Return how many numbers a single input tensor has."""
        return len(self) * self._single.numel()

    def is_floating_point(self) -> bool:
        """Return whether a single input tensor has floating numbers."""
        return self._single.is_floating_point()

    def __repr__(self) -> str:
        return f"LazyRows({len(self)} rows of {self.template!r})"

    @property
    def _single(self) -> Tensor:
        assert isinstance(self.template, Tensor), "these inputs have several parts"
        return self.template

    def _fetch_single(self, rows: list[int]) -> Tensor:
        found = self._read(rows)
        assert isinstance(found, Tensor), "these inputs have several parts"
        return found

    def _fetched(self, rows: list[int]) -> Inputs:
        with self._alone:
            found = self._read(rows)
        if _kind(found) != _kind(self.template) or len(found) != len(rows):
            raise DataError(
                f"dataset: rows {rows[0]} to {rows[-1]} are read as {_kind(found)}, others as {_kind(self.template)}; "
                "make all rows alike"
            )
        return found


Stored = Tensor | Parts | LazyRows
"""Inputs of a data set: in memory, or to be read."""


def part_of(inputs: Stored, key: str | None) -> Any:
    """Return the part of this key; None is that of inputs of one tensor."""
    return dict(each_part(inputs))[key]


def joined(pieces: Sequence[Inputs]) -> Inputs:
    """Return the rows of all pieces, one after the other."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    if isinstance(first, Tensor):
        return torch.cat([piece for piece in pieces if isinstance(piece, Tensor)])
    columns = zip(*(piece.tensors for piece in pieces if isinstance(piece, Parts)), strict=True)
    return Parts([torch.cat(column) for column in columns], first.names)


def taken(inputs: Stored, rows: Tensor) -> Stored:
    """Return the `rows` of inputs: a copy of those in memory, a view of those to be read."""
    return inputs.take(rows) if isinstance(inputs, LazyRows) else inputs[rows]


def cut(inputs: Stored, start: int, stop: int) -> Stored:
    """Return rows start to stop: a view, of inputs in memory and of those to be read."""
    if isinstance(inputs, LazyRows):
        return inputs.take(torch.arange(start, stop, device="cpu"))
    return inputs[start:stop]


def version_of(inputs: Stored) -> int:
    """Return how often inputs in memory have been changed in place."""
    if isinstance(inputs, LazyRows):
        return 0
    return inputs._version if isinstance(inputs, Tensor) else sum(tensor._version for tensor in inputs.tensors)


def each_part(inputs: Stored) -> Iterator[tuple[str | None, Any]]:
    """Yield each single tensor (or rows to be read of one) with its key; None is the key of inputs that are one."""
    structure = inputs.template if isinstance(inputs, LazyRows) else inputs
    if isinstance(structure, Tensor):
        yield None, inputs
        return
    for key in structure.keys:
        assert not isinstance(inputs, Tensor), "it has parts"
        yield key, inputs.part(key)


def _kind(inputs: Inputs) -> str:
    if isinstance(inputs, Tensor):
        return f"{tuple(inputs.shape[1:])} {inputs.dtype}"
    return ", ".join(f"{key} {tuple(part.shape[1:])} {part.dtype}" for key, part in inputs.items())


Given = Stored | Mapping[str, Tensor] | Sequence[Tensor]
"""What may be given as inputs: stored ones, or a dict, list or tuple of tensors."""


def as_inputs(given: object) -> Stored:
    """Return inputs given as a tensor, or as a dict, tuple or list of tensors; raises `DataError` for anything else."""
    if isinstance(given, Tensor | Parts | LazyRows):
        return given
    values = list(given.values()) if isinstance(given, Mapping) else given
    if isinstance(values, tuple | list) and values and all(isinstance(value, Tensor) for value in values):
        return Parts(values, [str(key) for key in given] if isinstance(given, Mapping) else None)
    if isinstance(values, tuple | list):
        odd = next((value for value in values if not isinstance(value, Tensor)), None)
        kind = f"{kind_of(given)} that holds {kind_of(odd)}" if values else f"{kind_of(given)} without entries"
        raise DataError(f"inputs: is {kind}, needs tensors; torch.as_tensor makes one of an array")
    raise DataError(f"inputs: is {kind_of(given)}, needs a tensor; torch.as_tensor makes one of an array")
