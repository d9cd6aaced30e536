"""Data sets that give a sample, or some, by row number: read into memory where they fit, else when rows are needed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate
from tqdm import tqdm

from subsetopt.data.given.columns import GivenSamples, as_stored, only_name
from subsetopt.data.given.memory import free_bytes
from subsetopt.errors import DataError, UserError, setting
from subsetopt.inputs import Inputs, LazyRows, describe, each_part, joined
from subsetopt.seeding import borrowed_generators

BLOCK, PROBED, SLOW = 256, 16, 1.0
"""Rows read at once, rows read twice to see whether they are the same, seconds until a progress bar is shown."""

MEMORY_SHARE = 0.5
"""Of the free memory, what is read into it at most."""

DRAWS = "the data set draws random numbers when it is read (random transforms?): rows are what they were when read"

Fetch = Callable[[list[int]], Any]
"""Row numbers -> a batch of these rows, as a collate function makes it."""


Divide = Callable[[Any], tuple[Any, Any]]
"""A batch of samples -> its inputs and its targets, None where there are none."""


@dataclass(frozen=True)
class MapStyle:
    """`rows` samples and how a batch of them is fetched; `pads` where a collate function of the user's own does it."""

    fetch: Fetch
    rows: Tensor
    pads: bool = False

    def batch(self, places: Sequence[int], fresh: bool = False) -> Any:
        """Return the batch of the samples at these places; raises `DataError` in one line where that fails.

        With `fresh` random numbers, which its user's generators do not notice, so that what draws any shows.
        """
        rows = [int(self.rows[place]) for place in places]
        try:
            with _new_numbers() if fresh else nullcontext():
                return self.fetch(rows)
        except (UserError, torch.OutOfMemoryError, MemoryError):
            raise
        except (Exception, SystemExit) as error:
            first = f"row {rows[0]}" if len(rows) == 1 else f"rows {rows[0]} to {rows[-1]}"
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise DataError(f"dataset: {first} cannot be read and stacked ({reason}); {_remedy(error)}") from error


def fetch_samples(dataset: Any, collate: Callable[[list[Any]], Any] | None) -> Fetch:
    """Return the fetch of a data set with `__getitem__`; `collate` None stacks what the samples hold."""
    together = getattr(dataset, "__getitems__", None)

    def fetch(rows: list[int]) -> Any:
        samples = together(rows) if callable(together) else [dataset[row] for row in rows]
        return default_collate([_arrays(sample) for sample in samples]) if collate is None else collate(list(samples))

    return fetch


def read_rows(source: MapStyle, divide: Divide, max_bytes: int | None) -> GivenSamples:
    """Return all samples of `source`: in memory up to `max_bytes` (default: half of what is free), else lazy inputs.

    Targets are always read. Raises `DataError` where two readings of some rows differ (random augmentation), where rows
    depend on those beside them, and where rows have different shapes that nothing pads.
    """
    n = len(source.rows)
    if n == 0:
        raise DataError("dataset: has no rows; give at least one")
    probed = torch.linspace(0, n - 1, min(n, PROBED)).round().long().unique().tolist()
    names: set[str | None] = set()

    def divide_and_note(batch: Any) -> tuple[Any, Any]:
        inputs, targets = divide(batch)
        names.add(only_name(inputs))
        return inputs, targets

    first, first_targets = _converted(source, probed, divide_and_note, fresh=True)
    (input_name,) = names
    _require_repeatable(source, divide, probed, first, first_targets)
    row_bytes = first.nbytes / len(probed)
    limit = int(MEMORY_SHARE * free_bytes()) if max_bytes is None else max_bytes
    in_memory = n * row_bytes <= limit
    generators = _generators()
    pieces, targets, template = _read_blocks(source, divide, in_memory)
    stacked = None if targets[0] is None else _stacked(targets)
    notes = () if _generators() == generators else (DRAWS,)
    if not in_memory:
        lazy = LazyRows(lambda rows: _converted(source, rows, divide)[0], torch.arange(n), template, limit)
        return GivenSamples(
            lazy,
            stacked,
            notes=(f"{n} rows are read when they are needed", *notes),
            padded=source.pads,
            input_name=input_name,
        )
    if len({_sizes(piece) for piece in pieces}) > 1:
        # Every block is padded to its own longest row; only the user's function knows with what.
        inputs, stacked = _converted(source, range(n), divide)
        return GivenSamples(inputs, stacked, notes=notes, padded=True, input_name=input_name)
    padded = source.pads and _ragged(source, divide, probed, first)
    return GivenSamples(joined(pieces), stacked, notes=notes, padded=padded, input_name=input_name)


def _read_blocks(source: MapStyle, divide: Divide, in_memory: bool) -> tuple[list[Inputs], list[Any], Inputs]:
    """Return the inputs by blocks (only where they are to stay `in_memory`), the targets by blocks, and the first row.

    Raises `DataError` for rows of different shapes that do not stay in memory.
    """
    pieces: list[Inputs] = []
    targets: list[Any] = []
    template: Inputs | None = None
    for places in _blocks(len(source.rows)):
        inputs, own = _converted(source, places, divide)
        template = inputs[:1] if template is None else template
        if in_memory:
            pieces.append(inputs)
        elif _shapes(inputs) != _shapes(template):
            raise DataError(
                f"dataset: rows differ in shape ({_shapes(template)} and {_shapes(inputs)} at row {places[0]}) and are "
                "too many to be held in memory; pad them all to one length"
            )
        targets.append(own)
    assert template is not None, "there is a row"
    return pieces, targets, template


def _blocks(n: int) -> Iterator[range]:
    with tqdm(total=n, desc="reading data", unit=" rows", disable=None, delay=SLOW, leave=False) as bar:
        for start in range(0, n, BLOCK):
            yield range(start, min(start + BLOCK, n))
            bar.update(min(BLOCK, n - start))


def _converted(source: MapStyle, places: Sequence[int], divide: Divide, fresh: bool = False) -> tuple[Inputs, Any]:
    given, targets = divide(source.batch(places, fresh))
    inputs = as_stored(given, "dataset: inputs")
    for what, part in (("inputs", inputs), ("targets", targets)):
        if part is not None and len(part) != len(places):
            raise DataError(
                f"dataset: the collate function gives {len(part)} {what} for {len(places)} samples; it must keep them"
            )
    return inputs, targets


def _require_repeatable(source: MapStyle, divide: Divide, places: Sequence[int], first: Inputs, targets: Any) -> None:
    """Read some rows again, then each by itself: a row must be the same every time, whatever is beside it."""
    again, other_targets = _converted(source, places, divide, fresh=True)
    if not _same_targets(targets, other_targets):
        raise DataError(
            f"dataset: the targets of row {places[0]} and others are not the same when they are read again; "
            "give targets that are fixed"
        )
    if _shapes(again) != _shapes(first) or not _equal(first, again):
        raise DataError(
            f"dataset: row {places[0]} and others are not the same when they are read again (random transforms?); "
            f"leave those out: {setting('augment_copies')} adds fixed augmented copies, "
            f"{setting('handoff_augmentation')} random ones after the subset"
        )
    for index, place in enumerate(places[:2]):
        alone, _ = _converted(source, [place], divide)
        if _shapes(alone) == _shapes(first) and not _equal(first[index : index + 1], alone):
            raise DataError(
                f"dataset: the collate function makes another row {place} of it alone than beside others; "
                "let it treat each sample by itself"
            )


def _same_targets(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    x, y = (part.detach().cpu().numpy() if isinstance(part, Tensor) else np.asarray(part) for part in (a, b))
    return x.shape == y.shape and bool(((x == y) | ((x != x) & (y != y))).all())


def _generators() -> list[Any]:
    """Return the states of the global generators of torch, numpy and Python."""
    kind, numbers, *rest = np.random.get_state()  # noqa: NPY002  # the generators that others use
    return [torch.get_rng_state().tolist(), kind, np.asarray(numbers).tolist(), rest, random.getstate()]


def _ragged(source: MapStyle, divide: Divide, places: Sequence[int], whole: Inputs) -> bool:
    return any(_shapes(_converted(source, [place], divide)[0]) != _shapes(whole) for place in places)


def _equal(a: Inputs, b: Inputs) -> bool:
    pairs = zip(each_part(a), each_part(b), strict=True)
    return all(bool(((x == y) | ((x != x) & (y != y))).all()) for (_, x), (_, y) in pairs)


def _shapes(inputs: Inputs) -> str:
    return describe(inputs[:1])


def _sizes(inputs: Inputs) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(part.shape[1:]) for _, part in each_part(inputs))


def _stacked(targets: list[Any]) -> Any:
    if all(isinstance(part, Tensor) for part in targets):
        return torch.cat(targets)
    return np.concatenate([np.asarray(part) for part in targets])


def _arrays(sample: Any) -> Any:
    """Return a sample with lists of numbers as arrays, which torch's collate function would take apart."""
    if isinstance(sample, Mapping):
        return {key: _array(value) for key, value in sample.items()}
    if isinstance(sample, tuple) and not hasattr(sample, "_fields"):
        return tuple(_arrays(value) if isinstance(value, Mapping) else _array(value) for value in sample)
    if isinstance(sample, list):
        return [_array(value) for value in sample]
    return sample


def _array(value: Any) -> Any:
    numbers = isinstance(value, list) and value and all(isinstance(each, bool | int | float) for each in value)
    return np.asarray(value) if numbers else value


def _remedy(error: BaseException) -> str:
    text = str(error)
    if "equal size" in text or "inhomogeneous" in text or "same size" in text:
        return "rows of different shapes need a DataLoader whose collate_fn pads them"
    if "NoneType" in text:
        return "every sample needs a value in each entry"
    return "mend its __getitem__ or the collate function"


@contextmanager
def _new_numbers() -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python anew, and put them back afterwards."""
    of_numpy, of_python = np.random.get_state(), random.getstate()  # noqa: NPY002  # the generators that others use
    try:
        with borrowed_generators([]):
            torch.seed()
            np.random.seed()  # noqa: NPY002
            random.seed()
            yield
    finally:
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)
