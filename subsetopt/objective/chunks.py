"""The samples of an objective, cut once into fixed chunks of near-equal size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from subsetopt.devices import moved
from subsetopt.errors import DataError, SettingError
from subsetopt.inputs import Inputs, LazyRows, Parts, Stored, each_part, version_of
from subsetopt.objective.arithmetic import plain
from subsetopt.seeding import make_generator

Preprocess = Callable[[Any], Any]
"""Inputs of a chunk -> those that the model gets."""

RESIDENT_BYTES = 4 * 2**30
"""Inputs above this size are gathered chunk by chunk instead of being copied as a whole; a GPU sets its own limit."""

DEVICE_SHARE = 0.5
"""Inputs stay on the host when they would take more than this share of what is free on a GPU."""

KEPT_BYTES = 256 * 2**20
"""Preprocessed chunks are kept between evaluations when all of them together are no larger than this."""

_FINGERPRINT_BYTES = 64 * 2**20


class Digest(Protocol):
    """What `hashlib` hands out."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take in more bytes."""


class PlacedSamples:
    """Inputs (one tensor `(n, ...)` or several) and targets, restricted to rows, on the device of the computation.

    `rows` are int64 positions into the tensors given, duplicates allowed; None takes all. What has to be copied (a
    subset, another device) is copied once when it is smaller than `resident_bytes`; else it stays where it is, in
    memory, in a memory-mapped file or where its rows are read, and is copied per chunk (`streams`). With `stay` it
    stays there whatever its size.
    """

    def __init__(
        self,
        inputs: Stored,
        targets: Tensor | None,
        rows: Tensor | None,
        device: torch.device,
        dtype: torch.dtype,
        preprocess: Preprocess | None,
        stay: bool = False,
    ) -> None:
        self.dtype, self.device, self._preprocess = dtype, device, preprocess
        self._inputs = _plain(inputs)
        self.rows = None if rows is None else rows.to(self._inputs.device)
        self._targets = None if targets is None else plain(targets)
        if self._targets is not None:
            chosen = self._targets if rows is None else self._targets[rows.to(self._targets.device)]
            self._targets = chosen.to(device)
        wanted = self._inputs.nbytes if rows is None else len(rows) * self._inputs[:1].nbytes
        lazy = isinstance(self._inputs, LazyRows)
        copied = rows is not None or lazy or self._inputs.device.type != device.type
        limit = min(resident_bytes(device), self._inputs.limit) if lazy else resident_bytes(device)
        self.streams = stay or (copied and wanted > limit)
        if not self.streams:
            if self.rows is not None or lazy:
                self._inputs, self.rows = self._inputs[slice(None) if self.rows is None else self.rows], None
            self._inputs = self._inputs.to(device)
        self._version = version_of(self._inputs)

    def __len__(self) -> int:
        return len(self._inputs) if self.rows is None else len(self.rows)

    @property
    def version(self) -> int:
        """Return how often the inputs were changed in place since construction (shared memory only)."""
        return version_of(self._inputs) - self._version

    @property
    def targets(self) -> Tensor:
        """All targets, on the device."""
        if self._targets is None:
            raise DataError("targets: none were given, and a loss needs them")
        return self._targets

    @targets.setter
    def targets(self, targets: Tensor) -> None:
        self._targets = targets

    def inputs(self, start: int, stop: int) -> Inputs:
        """Return the model inputs of samples start to stop: on the device, preprocessed, floats in the model's dtype.

        uint8 inputs without a preprocess become floats too, in 0 to 255; other integers (tokens) stay as they are.
        """
        return self.placed(self.staged(start, stop))

    def pick(self, places: Tensor) -> tuple[Inputs, Tensor]:
        """Return model inputs (see `inputs`) and targets of the samples at `places`, int64 on any device."""
        rows = moved(places, self._inputs.device)
        rows = rows if self.rows is None else self.rows[rows]
        return self.placed(self._inputs[rows]), self.targets[moved(places, self.targets.device)]

    def staged(self, start: int, stop: int) -> Inputs:
        """Return the stored rows of samples start to stop; for a GPU in page-locked memory, from which it can fetch."""
        x: Inputs = self._inputs[start:stop] if self.rows is None else self._inputs[self.rows[start:stop]]
        fetched = self.streams and self.device.type == "cuda" and x.device.type == "cpu"
        return x.pin_memory() if fetched else x

    def placed(self, x: Inputs) -> Inputs:
        """Return staged rows as the model gets them."""
        x = moved(x, self.device)
        x = x if self._preprocess is None else self._preprocess(x)
        return self._cast(x) if isinstance(x, Tensor) else x.map(self._cast)

    def _cast(self, x: Tensor) -> Tensor:
        return x.to(self.dtype) if x.is_floating_point() or x.dtype == torch.uint8 else x

    def require_finite(self) -> None:
        """Raise `DataError` when an input is NaN or infinite, naming the first row."""
        structure = self._inputs[:1]
        if not any(part.is_floating_point() for _, part in each_part(structure)):
            return
        for start, stop in bounds(len(self), 4096):
            x = self._inputs[start:stop] if self.rows is None else self._inputs[self.rows[start:stop]]
            for key, part in each_part(x):
                bad = ~torch.isfinite(part).flatten(1).all(1) if part.ndim > 1 else ~torch.isfinite(part)
                if bool(bad.any()):
                    where = f"row {start + int(bad.nonzero()[0])}" + ("" if key is None else f" of {key!r}")
                    raise DataError(f"inputs: NaN or infinite value in {where}; remove or repair it")

    def fingerprint(self, digest: Digest) -> None:
        """Feed the data to `digest`: wholly up to 64 MiB, above that the rows in some 512 evenly spaced places.

        It is the same wherever the data are, and whether they have been copied or not.
        """
        small = len(self) * self._inputs[:1].nbytes <= _FINGERPRINT_BYTES
        places = slice(None, None, 1 if small else max(1, len(self) // 512))
        for key, part in each_part(self._inputs):
            name = "" if key is None else f"{key}:"
            digest.update(f"{name}{tuple(part.shape[1:])}{part.dtype}{len(self)}".encode())
            feed(digest, part[places] if self.rows is None else part[self.rows[places]])
        if self._targets is not None:  # with factors, or alone
            for part in (self._targets,) if isinstance(self._targets, Tensor) else vars(self._targets).values():
                feed(digest, part)


def _plain(inputs: Stored) -> Any:
    """Return inputs as ordinary data (see `plain`)."""
    if isinstance(inputs, Tensor):
        return plain(inputs)
    return inputs.map(plain) if isinstance(inputs, Parts) else inputs


def resident_bytes(device: torch.device) -> float:
    """Return the size of inputs up to which they are copied to `device` as a whole."""
    if device.type != "cuda":
        return RESIDENT_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    return DEVICE_SHARE * free


def feed(digest: Digest, tensor: Tensor) -> None:
    """Feed the elements of a tensor to `digest`, bit for bit."""
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def bounds(samples: int, chunk_size: int) -> list[tuple[int, int]]:
    """Cut 0..samples into the fewest pieces of at most `chunk_size`, whose sizes differ by at most one."""
    pieces = -(-samples // chunk_size)
    base, longer = divmod(samples, pieces)
    edges = [index * base + min(index, longer) for index in range(pieces + 1)]
    return list(pairwise(edges))


def row_order(samples: int) -> Tensor:
    """Return a fixed random order of the samples, so that a chunk is a random sample even of sorted data."""
    return torch.randperm(samples, generator=make_generator(0, "chunk order"))


def check_rows(indices: Tensor | Sequence[int] | None, inputs: Stored, targets: Tensor) -> Tensor | None:
    """Return `indices` as int64 positions; raises `DataError` or `SettingError` when they do not fit the data."""
    if (isinstance(inputs, Tensor) and inputs.ndim == 0) or len(inputs) == 0:
        shape = f"shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else repr(inputs)
        raise DataError(f"inputs: {shape} holds no samples")
    if targets.ndim == 0 or len(inputs) != len(targets):
        raise DataError(f"targets: shape {tuple(targets.shape)} for {len(inputs)} inputs; give one target per input")
    if indices is None:
        return None
    try:
        rows = indices if isinstance(indices, Tensor) else torch.tensor(indices, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise SettingError("indices", type(indices), "must be row numbers, shape (K,), K >= 1") from None
    if rows.ndim != 1 or len(rows) == 0 or rows.is_floating_point() or rows.dtype == torch.bool:
        raise SettingError("indices", f"{rows.dtype} {tuple(rows.shape)}", "must be row numbers, shape (K,), K >= 1")
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= len(inputs):
        raise SettingError("indices", f"{low}..{high}", f"must lie in 0..{len(inputs) - 1}")
    return rows.to(torch.int64)


def check_chunk_size(chunk_size: int | None) -> int | None:
    """Return `chunk_size`; raises `SettingError` unless it is None (automatic) or a positive whole number."""
    if chunk_size is not None and (isinstance(chunk_size, bool) or not isinstance(chunk_size, int) or chunk_size < 1):
        raise SettingError("chunk_size", chunk_size, "must be a whole number of samples, at least 1", "or leave it out")
    return chunk_size


def part_placer(device: torch.device, dtype: torch.dtype, preprocess: Preprocess | None) -> Callable[[Stored], Parts]:
    """Return what places rows of a single part as a model gets them; `preprocess` takes it with its name or without."""

    def inputs(rows: Stored) -> Inputs:
        return PlacedSamples(rows, None, None, device, dtype, preprocess, stay=True).inputs(0, len(rows))

    def placed(rows: Stored) -> Parts:
        ((key, part),) = each_part(rows)
        try:
            found = inputs(rows)
        except Exception:  # a function of the user's own for tensors
            found = inputs(part)
        return found if isinstance(found, Parts) else Parts([found], [str(key)])

    return placed


def chunks(data: PlacedSamples, edges: Sequence[tuple[int, int]]) -> Iterator[tuple[Inputs, Tensor]]:
    """Yield (inputs, targets) of each chunk."""
    for start, stop in edges:
        yield data.inputs(start, stop), data.targets[start:stop]


class KeptChunks:
    """The chunks of `data` as the model gets them; small ones are made once, until the inputs change in place.

    Chunks of data that stream are read one ahead, by a thread: three are in memory at most, whatever the size of all.
    """

    def __init__(self, data: PlacedSamples, edges: Sequence[tuple[int, int]]) -> None:
        self._data, self._edges = data, edges
        self._kept: dict[tuple[int, int], tuple[Inputs, Tensor]] = {}
        self._version = data.version
        self._keep: bool | None = None

    def __iter__(self) -> Iterator[tuple[Inputs, Tensor]]:
        return self._read_ahead() if self._data.streams else map(self.__getitem__, self._edges)

    def _read_ahead(self) -> Iterator[tuple[Inputs, Tensor]]:
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._data.staged, *self._edges[0])
            for (start, stop), following in zip(self._edges, [*self._edges[1:], None], strict=True):
                staged = ahead.result()
                if following is not None:
                    ahead = reader.submit(self._data.staged, *following)
                yield self._data.placed(staged), self._data.targets[start:stop]

    def __getitem__(self, edge: tuple[int, int]) -> tuple[Inputs, Tensor]:
        if self._version != self._data.version:
            self._kept.clear()
            self._version = self._data.version
        if edge in self._kept:
            return self._kept[edge]
        start, stop = edge
        piece = self._data.inputs(start, stop), self._data.targets[start:stop]
        if self._keep is None:
            self._keep = not self._data.streams and piece[0].nbytes / (stop - start) * len(self._data) <= KEPT_BYTES
        if self._keep:
            self._kept[edge] = piece
        return piece
