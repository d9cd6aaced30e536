"""Dot products in float64 on the device, whatever the dtype of the vectors; their operations are noted (`tally.py`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subsetopt.objective.arithmetic import accumulation_dtype, exact_arithmetic
from subsetopt.objective.host import host_read, note_read
from subsetopt.objective.tally import note_flops

Array = NDArray[Any]

BLOCK = 1 << 22  # entries converted to float64 at a time: bounds the extra memory of a float32 product
CUDA_BLOCK = 1 << 26  # there each block costs launches, not memory: at P = 1e7 small ones took twice as long as torch
CACHED = 1 << 15  # entries of a pair of vectors that a CPU converts while they are in its cache
RUN = 1 << 14  # entries of float32 vectors whose product is summed in float32
EXACT = 1 << 12  # entries of float32 vectors up to which products are summed in float64, which costs little there


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return a·b, accumulated in float64 whatever the dtype; a 0-d tensor on the device."""
    if a.dtype == torch.float64:
        note_flops(2 * a.numel())
        return torch.dot(a, b)
    if a.device.type == "cpu":
        note_flops(2 * a.numel())
        parts = zip(torch.split(a, CACHED), torch.split(b, CACHED), strict=True)
        return torch.stack([torch.dot(x.double(), y.double()) for x, y in parts]).sum()
    return products(a.unsqueeze(0), b.unsqueeze(1)).reshape(())


def point_numbers(loss: Tensor, gradient: Tensor, w: Tensor, along: Tensor | None) -> list[float]:
    """Return loss, max|g|, g·g, ||g∘w||² and, where there is a direction, g·d, in one synchronisation."""
    if gradient.device.type != "cpu":
        return _read_from_device(loss, gradient, w, along)
    flops = 2 * gradient.numel() * (2 if along is None else 3)
    if gradient.numel() <= CACHED and on_host(gradient):
        note_flops(flops, host=True)
        note_read()
        return [float(loss.detach().numpy()), *short_products(gradient, w, along)]
    note_flops(flops)
    lowest, highest = torch.aminmax(gradient)
    sums = long_products(gradient, w, along)
    numbers = host_read(torch.cat([torch.stack([loss.detach().double(), -lowest.double(), highest.double()]), sums]))
    return [numbers[0], max(numbers[1:3]), *numbers[3:]]


def on_host(tensor: Tensor) -> bool:
    """True where numpy can read the tensor without a copy."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)


def _read_from_device(loss: Tensor, gradient: Tensor, w: Tensor, along: Tensor | None) -> list[float]:
    lowest, highest = torch.aminmax(gradient)
    scaled = gradient * w
    dots = [dot(gradient, gradient), dot(scaled, scaled), *([] if along is None else [dot(gradient, along)])]
    scalars = [loss.detach(), torch.maximum(-lowest, highest), *dots]
    return host_read(torch.stack([scalar.to(dots[0].dtype) for scalar in scalars]))


def short_products(gradient: Tensor, w: Tensor, along: Tensor | None) -> list[float]:
    """Return max|g|, g·g, ||g∘w||² and g·d of vectors in a CPU's cache, in float64 by numpy, whose calls cost less."""
    g = gradient.detach().numpy()
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        wide = g.astype(np.float64, copy=False)
        scaled = wide * w.detach().numpy()
        numbers = [max(-g.min(), g.max()), wide @ wide, scaled @ scaled]
        if along is not None:
            numbers.append(wide @ along.detach().numpy().astype(np.float64, copy=False))
    return [float(number) for number in numbers]


def long_products(gradient: Tensor, w: Tensor, along: Tensor | None) -> Tensor:
    """Return g·g, ||g∘w||² and g·d in float64; each vector is converted once, while it is in the cache."""
    vectors = [gradient, w] if along is None else [gradient, w, along]
    sums = []
    for run in zip(*(torch.split(vector, CACHED) for vector in vectors), strict=True):
        g, part, *direction = (piece.double() for piece in run)
        sums += [torch.dot(g, g), *(torch.dot(g, d) for d in direction)]
        g = g * part if gradient.dtype == torch.float64 else g.mul_(part)
        sums.append(torch.dot(g, g))
    total = torch.stack(sums).view(-1, len(vectors)).sum(0)
    return total if along is None else total[[0, 2, 1]]


def pair_products(s: Tensor, y: Tensor) -> Tensor:
    """Return s·s, s·y and y·y in float64; a CPU converts each vector once."""
    if s.device.type != "cpu":
        return torch.stack([dot(s, s), dot(s, y), dot(y, y)])
    note_flops(6 * s.numel())
    runs = zip(torch.split(s, CACHED), torch.split(y, CACHED), strict=True)
    wide = ((left.double(), right.double()) for left, right in runs)
    sums = [torch.dot(a, b) for left, right in wide for a, b in ((left, left), (left, right), (right, right))]
    return torch.stack(sums).view(-1, 3).sum(0)


def products(rows: Tensor, columns: Tensor) -> Tensor:
    """Return `rows @ columns` for shapes (r, P) and (P, c), accumulated in float64 block by block."""
    note_flops(2 * rows.numel() * columns.shape[1])
    if rows.dtype == torch.float64:
        return rows @ columns
    wide = accumulation_dtype(rows.device)
    total = torch.zeros(len(rows), columns.shape[1], dtype=wide, device=rows.device)
    width = max(1, (CUDA_BLOCK if rows.device.type == "cuda" else BLOCK) // max(1, len(rows)))
    for start in range(0, rows.shape[1], width):
        block = slice(start, start + width)
        total += rows[:, block].to(wide) @ columns[block].to(wide)
    return total


def combination(start: Tensor, rows: Tensor, weights: Tensor, *, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    """Return beta start + alpha rowsᵀ weights for shapes (P,), (r, P) and (r,)."""
    note_flops(2 * rows.numel())
    if rows.device.type == "cpu":
        # The same sums as addmv's, bit for bit, by an operation that torch's own FlopCounterMode counts.
        with exact_arithmetic(rows.device):
            return torch.addmm(start[None], weights[None], rows, alpha=alpha, beta=beta)[0]
    return torch.addmv(start, rows.T, weights, alpha=alpha, beta=beta)


def ring_products(rows: Tensor, vectors: Tensor) -> Tensor:
    """Return `rows @ vectors.T`, in float64, for rows (r, P) and few vectors (c, P).

    In float32 runs of `RUN` entries are multiplied in float32 and their sums added up in float64: no copy of the rows
    in float64, which would cost three times the product, and an error that falls with the number of runs (for random
    vectors it is 2e-6 / sqrt(P) of the product of their lengths).
    """
    if rows.dtype != torch.float32 or rows.device.type not in ("cpu", "cuda") or rows.shape[1] <= EXACT:
        return products(rows, vectors.T)
    if rows.device.type == "cuda":
        return runs_at_once(rows, vectors)
    note_flops(2 * rows.numel() * len(vectors))
    runs = torch.empty(-(-rows.shape[1] // RUN), len(rows), len(vectors), device="cpu")
    with exact_arithmetic(rows.device):
        for out, left, right in zip(runs, torch.split(rows, RUN, 1), torch.split(vectors, RUN, 1), strict=True):
            torch.mm(left, right.T, out=out)
    return runs.sum(0, dtype=torch.float64)


def runs_at_once(rows: Tensor, vectors: Tensor) -> Tensor:
    """Return what `ring_products` does by one batched product over all runs: launches do not grow with P."""
    count = rows.shape[1] // RUN
    whole = count * RUN
    left = rows[:, :whole].view(len(rows), count, RUN).transpose(0, 1)
    right = vectors[:, :whole].view(len(vectors), count, RUN).permute(1, 2, 0)
    note_flops(2 * len(rows) * whole * len(vectors))
    with exact_arithmetic(rows.device):
        sums = torch.bmm(left, right)
    return sums.sum(0, dtype=torch.float64) + products(rows[:, whole:], vectors[:, whole:].T)


def short_ring_products(rows: Array, gradient: Array, pair: slice | None) -> list[float]:
    """Return rows (r, P) times g, then s·s, s·y and y·y of the two rows `pair`, by numpy; P is `RUN` at most."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if rows.shape[1] <= EXACT:
            rows, gradient = rows.astype(np.float64, copy=False), gradient.astype(np.float64, copy=False)
        products: list[float] = (rows @ gradient).tolist()
        if pair is not None:
            s, y = rows[pair]
            products += [float(s @ s), float(s @ y), float(y @ y)]
    return products


def short_combination(start: Array, rows: Array, weights: Array, beta: float) -> Array:
    """Return beta start + rowsᵀ weights in the dtype of the vectors, by numpy."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        result: Array = weights.astype(rows.dtype, copy=False) @ rows
        result += rows.dtype.type(beta) * start
    return result
