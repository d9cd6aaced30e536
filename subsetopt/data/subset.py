"""Draw random subsets: sorted row numbers, the same for one seed on every platform, nested for growing sizes."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subsetopt.data.apportionment import class_sequence
from subsetopt.data.streams import raw_stream, uniforms
from subsetopt.errors import SettingError, setting


def draw(
    n: int,
    *,
    fraction: float | None = None,
    size: int | None = None,
    seed: int = 0,
    stratify: Tensor | NDArray[Any] | None = None,
    replace: bool = False,
) -> Tensor:
    """Draw a random subset of n rows; returns sorted int64 row numbers, unique unless `replace`.

    Give `fraction` in (0, 1], meaning max(1, round(fraction * n)) rows with halves rounded to even, or `size`.
    For one seed a smaller subset is contained in every larger one (as a multiset when `replace`).

    `stratify` holds the n class labels: every class c then gets its share n_c * size / n to within one row.
    `replace` draws each row independently (within its class when stratified), so `size` may exceed n.

    Raises `SettingError` naming subset_frac or subset_size for a number that is unusable, and for a stratified
    subset smaller than the number of classes.
    """
    size = subset_size(n, fraction=fraction, size=size, replace=replace)
    labels = None if stratify is None else _labels(stratify, n)
    if labels is not None:
        _require_size(size, len(np.unique(labels)), n, fraction)
    if not replace:
        return _rows(ranking(n, seed, labels, size))
    words = raw_stream(seed, "subset-replacement", size)
    if labels is None:
        return _rows((words % np.uint64(n)).astype(np.int64))
    return _rows(_within_class(ranking(n, seed, labels, min(size, n)), labels, words))


def disjoint(
    n: int, size: int, count: int, seed: int = 0, *, stratify: Tensor | NDArray[Any] | None = None
) -> tuple[Tensor, ...]:
    """Draw `count` disjoint subsets of `size` rows each, sorted; the first is `draw(n, size=size, seed=seed)`.

    Raises `SettingError` when n rows are too few.
    """
    size = subset_size(n, size=size)
    if not _is_integer(count) or count < 1:
        raise SettingError("subset_count", count, "must be a whole number from 1", "try 2")
    if size * count > n:
        remedy = f"use {setting('subset_size', max(1, n // count))} or fewer subsets"
        raise SettingError("subset_size", size, f"{count} disjoint subsets do not fit into {n} rows", remedy)
    order = ranking(n, seed, None if stratify is None else _labels(stratify, n), size * count)
    return tuple(_rows(order[start * size : (start + 1) * size]) for start in range(count))


def draw_slice(
    n: int, share: float, skip: float = 0.0, seed: int = 0, *, stratify: Tensor | NDArray[Any] | None = None
) -> Tensor:
    """Draw round((skip + share)·n) rows and leave out the first round(skip·n) of them; the rest sorted.

    With `skip` 0 this is `draw(n, fraction=share)`; slices that do not overlap are disjoint. Raises `SettingError` as
    `draw` does, but for no number of classes.
    """
    skipped = round(skip * n)
    length = subset_size(n, size=min(n, max(round((skip + share) * n), skipped + 1)))
    return _rows(ranking(n, seed, None if stratify is None else _labels(stratify, n), length)[skipped:])


def require_all_classes(targets: Tensor, n_classes: int) -> None:
    """Refuse a subset that cannot hold every class: raises `SettingError` when it has fewer rows than classes.

    A subset large enough that still misses a rare class is the user's choice; `missing_classes` names those.
    """
    _require_size(len(targets), n_classes)


def missing_classes(targets: Tensor, n_classes: int) -> list[int]:
    """Return the classes 0 to n_classes - 1 of which `targets` (n,) has no sample."""
    return torch.nonzero(torch.bincount(targets, minlength=n_classes) == 0).flatten().tolist()


def subset_size(n: int, *, fraction: float | None = None, size: int | None = None, replace: bool = False) -> int:
    """Return the number of rows that `fraction` or `size` means for n rows; raises `SettingError`."""
    if n < 1:
        raise SettingError("subset_size", size, f"there are {n} rows to draw from", "check the training data")
    if (fraction is None) == (size is None):
        problem = "neither a fraction nor a size is given" if size is None else "a fraction is given, too"
        raise SettingError(
            "subset_size", size, problem, f"give one of {setting('subset_frac')} and {setting('subset_size')}"
        )
    if size is None:
        share = as_number(fraction)
        if not 0 < share <= 1:
            raise SettingError(
                "subset_frac", fraction, "must be a number in (0, 1]", f"try {setting('subset_frac', 0.1)}"
            )
        return max(1, round(share * n))
    remedy = f"use {setting('subset_size')} from 1 to {n}, or {setting('subset_frac', 0.1)}"
    if not _is_integer(size) or size < 1:
        raise SettingError("subset_size", size, "must be a whole number from 1", remedy)
    if size > n and not replace:
        raise SettingError("subset_size", size, f"the training data have only {n} rows", remedy)
    return int(size)


def ranking(n: int, seed: int, labels: NDArray[np.int64] | None, length: int) -> NDArray[np.int64]:
    """Return the first `length` rows in the order in which subsets of growing size take them in.

    The order is by random key; with labels, by random key within each class, and the classes take turns by
    `class_sequence`. Its offsets u_c are uniform in (0, 1), so no class is favoured, and together they are spread
    evenly, u_c = (pi(c) + v) / C with pi a random permutation: many small classes do not all come early or late.
    """
    words = raw_stream(seed, "subset", n)
    if labels is None:
        return np.argsort(words, kind="stable")[:length]
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    by_class, starts = np.lexsort((words, codes)), np.cumsum(counts) - counts
    extra = raw_stream(seed, "subset-classes", len(classes) + 1)
    permutation = np.argsort(np.argsort(extra[1:], kind="stable"), kind="stable")
    offsets = (permutation + uniforms(extra[:1])) / len(classes)
    sequence = class_sequence(counts, offsets, length)
    rows: NDArray[np.int64] = by_class[starts[sequence] + _occurrence(sequence)]
    return rows


def _occurrence(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how often each value has occurred before it: [3, 1, 3] gives [0, 0, 1]."""
    order, counts = np.argsort(values, kind="stable"), np.bincount(values)
    earlier = np.empty(len(values), np.int64)
    earlier[order] = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    return earlier


def _within_class(order: NDArray[np.int64], labels: NDArray[np.int64], words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Keep the classes that a stratified subset has, but draw each row anew among all rows of its class."""
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    members, starts = np.argsort(codes, kind="stable"), np.cumsum(counts) - counts
    chosen = codes[order[np.arange(len(words)) % len(order)]]
    rows: NDArray[np.int64] = members[starts[chosen] + (words % counts[chosen].astype(np.uint64)).astype(np.int64)]
    return rows


def _labels(stratify: Tensor | NDArray[Any], n: int) -> NDArray[np.int64]:
    labels = np.asarray(stratify.cpu() if isinstance(stratify, Tensor) else stratify)
    if labels.shape != (n,) or labels.dtype.kind not in "iub":
        found = f"shape {labels.shape}, {labels.dtype}"
        raise SettingError(
            "stratify", found, f"needs the {n} integer class labels of the rows", f"use {setting('stratify', False)}"
        )
    return labels.astype(np.int64)


def _require_size(size: int, n_classes: int, n: int = 0, fraction: float | None = None) -> None:
    if size < n_classes and fraction is not None:
        enough = min(1.0, math.ceil(100 * n_classes / n) / 100)
        problem = f"is {size} of {n} rows, smaller than the number of classes, {n_classes}"
        raise SettingError("subset_frac", fraction, problem, f"use {setting('subset_frac', enough)}")
    if size < n_classes:
        remedy = f"use {setting('subset_size', n_classes)} or more, or a larger {setting('subset_frac')}"
        raise SettingError("subset_size", size, f"smaller than the number of classes, {n_classes}", remedy)


def _rows(rows: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(np.sort(rows).astype(np.int64, copy=False))


def _is_integer(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def as_number(value: object) -> float:
    """Return a real number as a float, and NaN, which fails every comparison, for anything else."""
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
