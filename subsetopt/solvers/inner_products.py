"""Dot products in float64 on the device, whatever the dtype of the vectors; their operations are noted (`tally.py`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subsetopt.objective.arithmetic import accumulation_dtype
from subsetopt.objective.host import host_read, note_read
from subsetopt.objective.tally import note_flops

Array = NDArray[Any]

BLOCK = 1 << 22  # entries converted to float64 at a time: bounds the extra memory of a float32 product
CUDA_BLOCK = 1 << 26  # there each block costs launches, not memory: at P = 1e7 small ones took twice as long as torch
SPAN = 1 << 13  # entries that a CPU converts at a time: they stay in its cache, and below what malloc maps anew
SUMMED = 1 << 14  # entries of float32 vectors that a CPU adds up in float32, where they are longer than `LONG`
LONG = 1 << 15
SAFE = 1e-30  # mean of float32 products above which none that counts has left their range

Sums = list[float]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return a·b, accumulated in float64 whatever the dtype; a 0-d tensor on the device."""
    if a.dtype == torch.float64:
        note_flops(2 * a.numel())
        return torch.dot(a, b)
    if not on_host(a):
        return products(a.unsqueeze(0), b.unsqueeze(1)).reshape(())
    note_flops(2 * a.numel(), host=True)
    with quiet():
        spans = _spans(SPAN, (array(a), array(b)), wide=True)
        return torch.tensor(sum(x.dot(y) for x, y in spans), dtype=torch.float64, device="cpu")


def point_numbers(loss: Tensor, gradient: Tensor, w: Tensor, along: Tensor | None) -> list[float]:
    """Return loss, max|g|, g·g, ||g∘w||² and, where there is a direction, g·d, in one synchronisation."""
    if not gradient.is_cpu:
        return _read_from_device(loss, gradient, w, along)
    tensors = [gradient, w] if along is None else [gradient, w, along]
    if not on_host(gradient):  # 16 bits
        tensors = [tensor.float() for tensor in tensors]
    vectors = [array(tensor) for tensor in tensors]
    g = vectors[0]
    note_flops(2 * len(g) * len(vectors), host=True)
    note_read()
    with quiet():
        sums = _in_float32(_gradient_sums, vectors) or _gradient_sums(_spans(SPAN, vectors, wide=True))
    return [float(array(loss if on_host(loss) else loss.double())), *sums]


@cache
def precision(dtype: torch.dtype) -> float:
    """Return the distance from 1 to the next number."""
    return torch.finfo(dtype).eps


def on_host(tensor: Tensor) -> bool:
    """True where numpy can read the tensor without a copy."""
    return tensor.dtype in (torch.float32, torch.float64) and tensor.is_cpu


def array(tensor: Tensor) -> Array:
    """Return the numbers of a tensor on the host without a copy."""
    values: Array = tensor.detach().numpy() if tensor.requires_grad else tensor.numpy()
    return values


def quiet() -> np.errstate:
    """Return a block in which numpy says nothing of numbers out of range."""
    return np.errstate(over="ignore", invalid="ignore", under="ignore")


def _spans(width: int, vectors: Sequence[Array], *, wide: bool = False) -> Iterable[Sequence[Array]]:
    """Return the vectors in spans of `width` entries, in float64 if `wide`."""
    wide = wide and vectors[0].dtype != np.float64
    if len(vectors[0]) > width:
        return _cut(width, vectors, wide)
    return ([vector.astype(np.float64) for vector in vectors] if wide else vectors,)


def _cut(width: int, vectors: Sequence[Array], wide: bool) -> Iterator[Sequence[Array]]:
    whole = len(vectors[0]) // width * width
    for span in zip(*(vector[:whole].reshape(-1, width) for vector in vectors), strict=True):
        yield [part.astype(np.float64) for part in span] if wide else span
    if whole < len(vectors[0]):
        rest = [vector[whole:] for vector in vectors]
        yield [part.astype(np.float64) for part in rest] if wide else rest


def _in_float32(sums_of: Callable[[Iterable[Sequence[Array]]], Sums], vectors: Sequence[Array]) -> Sums | None:
    """Return the sums of long float32 vectors from sums in float32 over `SUMMED` entries; None for others.

    These have the accuracy of the entries; None, too, where a sum says that products may have left float32's range.
    """
    if len(vectors[0]) <= LONG or vectors[0].dtype != np.float32:
        return None
    sums = sums_of(_spans(SUMMED, vectors))
    smallest = SAFE * len(vectors[0])
    return sums if all(smallest <= abs(value) < math.inf for value in sums) else None


def _gradient_sums(spans: Iterable[Sequence[Array]]) -> Sums:
    """Return max|g|, g·g, ||g∘w||² and, where there is a third vector, g·d."""
    square = sensitivity = slope = 0.0
    along, peaks = False, []
    for g, w, *d in spans:
        scaled = g * w
        peaks.append(np.maximum.reduce(np.abs(g)))
        square += float(g.dot(g))
        sensitivity += float(scaled.dot(scaled))
        if d:
            along, slope = True, slope + float(g.dot(d[0]))
    largest = float(peaks[0] if len(peaks) == 1 else np.maximum.reduce(peaks))  # NaN where there is one
    return [largest, square, sensitivity, slope] if along else [largest, square, sensitivity]


def _pair_sums(spans: Iterable[Sequence[Array]]) -> Sums:
    ss = sy = yy = 0.0
    for s, y in spans:
        ss += float(s.dot(s))
        sy += float(s.dot(y))
        yy += float(y.dot(y))
    return [ss, sy, yy]


def _read_from_device(loss: Tensor, gradient: Tensor, w: Tensor, along: Tensor | None) -> list[float]:
    lowest, highest = torch.aminmax(gradient)
    scaled = gradient * w
    dots = [dot(gradient, gradient), dot(scaled, scaled), *([] if along is None else [dot(gradient, along)])]
    scalars = [loss.detach(), torch.maximum(-lowest, highest), *dots]
    return host_read(torch.stack([scalar.to(dots[0].dtype) for scalar in scalars]))


def pair_products(s: Tensor, y: Tensor) -> Tensor:
    """Return s·s, s·y and y·y in float64 on the device."""
    if not on_host(s):
        return torch.stack([dot(s, s), dot(s, y), dot(y, y)])
    note_flops(6 * s.numel(), host=True)
    with quiet():
        sums = host_pair_products(array(s), array(y))
    return torch.tensor(sums, dtype=torch.float64, device="cpu")


def products(rows: Tensor, columns: Tensor) -> Tensor:
    """Return `rows @ columns` for shapes (r, P) and (P, c), accumulated in float64 block by block."""
    note_flops(2 * rows.numel() * columns.shape[1])
    if rows.dtype == torch.float64:
        return torch.mv(rows, columns[:, 0])[:, None] if columns.shape[1] == 1 else rows @ columns
    wide = accumulation_dtype(rows.device)
    total = torch.zeros(len(rows), columns.shape[1], dtype=wide, device=rows.device)
    width = max(1, (CUDA_BLOCK if rows.device.type == "cuda" else BLOCK) // max(1, len(rows)))
    for start in range(0, rows.shape[1], width):
        block = slice(start, start + width)
        total += rows[:, block].to(wide) @ columns[block].to(wide)
    return total


def host_pair_products(s: Array, y: Array) -> Sums:
    """Return s·s, s·y and y·y, by numpy. Call it in `quiet`."""
    pair = (s, y)
    return _in_float32(_pair_sums, pair) or _pair_sums(_spans(SPAN, pair, wide=True))
