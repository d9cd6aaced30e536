"""Dot products in float64 on the device, whatever the dtype of the vectors; their operations are noted (`tally.py`)."""

from __future__ import annotations

import torch
from torch import Tensor

from subsetopt.objective.arithmetic import accumulation_dtype, exact_arithmetic
from subsetopt.objective.tally import note_flops

BLOCK = 1 << 22  # entries converted to float64 at a time: bounds the extra memory of a float32 product
CUDA_BLOCK = 1 << 26  # there each block costs launches, not memory: at P = 1e7 small ones took twice as long as torch
CACHED = 1 << 15  # entries of a pair of vectors that a CPU converts while they are in its cache
RUN = 8192  # entries of two float32 vectors whose product is summed in float32 where many vectors are multiplied


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


def gradient_products(gradient: Tensor, w: Tensor, along: Tensor | None) -> list[Tensor]:
    """Return g·g, ||g∘w||² and, where there is a direction, g·d, as `dot` does; a CPU converts each vector once."""
    if gradient.device.type != "cpu" or gradient.dtype == torch.float64:
        scaled = gradient * w
        return [dot(gradient, gradient), dot(scaled, scaled), *([] if along is None else [dot(gradient, along)])]
    vectors = [gradient, w] if along is None else [gradient, w, along]
    note_flops(2 * gradient.numel() * len(vectors))
    sums = []
    for g, part, *direction in zip(*(torch.split(vector, CACHED) for vector in vectors), strict=True):
        wide = g.double()
        scaled = wide * part
        pairs = [(wide, wide), (scaled, scaled), *((wide, d.double()) for d in direction)]
        sums += [torch.dot(a, b) for a, b in pairs]
    return list(torch.stack(sums).view(-1, len(vectors)).sum(0))


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
    vectors it is 2e-6 / sqrt(P) of the product of their lengths). Short vectors are multiplied in float64.
    """
    if rows.dtype != torch.float32 or rows.device.type not in ("cpu", "cuda") or rows.shape[1] <= RUN:
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
