"""Passes over the rows of a ring of pairs: their products with a vector, and their sums with weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from subsetopt.objective.arithmetic import exact_arithmetic
from subsetopt.objective.tally import note_flops
from subsetopt.solvers.inner_products import Array, array, on_host, products

SHORT = 1 << 17  # entries up to which numpy does the algebra of a ring: its calls cost less than torch's
RUN = 1 << 15  # entries of float32 vectors whose product with the ring is summed in float32
EXACT = 1 << 12  # entries of float32 vectors up to which these are summed in float64, which costs little there
BLOCK = 1 << 17  # entries of a sum of long rows made at a time, so that the last ones read are still in the cache


def empty_rows(count: int, like: Tensor) -> Tensor:
    """Return zeros (count, P) for vectors like `like` (P,).

    On the host numpy makes them: it asks for large pages, which cost a quarter to get and a tenth less to pass over.
    """
    if not on_host(like):
        return like.new_zeros(count, like.numel())
    return torch.from_numpy(np.zeros((count, like.numel()), array(like).dtype))


def combination(start: Tensor, rows: Tensor, weights: Tensor, *, alpha: float = 1.0, beta: float = 1.0) -> Tensor:
    """Return beta start + alpha rowsᵀ weights for shapes (P,), (r, P) and (r,)."""
    note_flops(2 * rows.numel())
    if rows.device.type == "cpu":
        # The same sums as addmv's, bit for bit, by an operation that torch's own FlopCounterMode counts.
        with exact_arithmetic(rows.device):
            return torch.addmm(start[None], weights[None], rows, alpha=alpha, beta=beta)[0]
    return torch.addmv(start, rows.T, weights, alpha=alpha, beta=beta)


def ring_combination(start: Tensor, parts: Sequence[tuple[Tensor, Tensor]], beta: float) -> Tensor:
    """Return beta start + the sum of rowsᵀ weights over `parts`, pairs of rows (r, P) and weights (r,)."""
    if start.device.type != "cpu":
        for rows, weights in parts:
            start, beta = combination(start, rows, weights, beta=beta), 1.0
        return start
    result = torch.empty_like(start)
    blocks = result[None].split(BLOCK, 1)
    sums: Sequence[Tensor] = start[None].split(BLOCK, 1)
    cut = [(weights[None], rows.split(BLOCK, 1)) for rows, weights in parts]
    note_flops(2 * sum(rows.numel() for rows, _ in parts))
    with exact_arithmetic(start.device):
        for place, block in enumerate(blocks):
            source, factor = sums[place], beta
            for weights, rows in cut:
                torch.addmm(source, weights, rows[place], beta=factor, out=block)
                source, factor = block, 1.0
    return result


def ring_products(rows: Tensor, vectors: Tensor) -> Tensor:
    """Return `rows @ vectors.T`, in float64, for rows (r, P) and few vectors (c, P).

    In float32 runs of `RUN` entries are multiplied in float32 and their sums added up in float64: no copy of the rows
    in float64, which would cost three times the product, and an error that falls with the number of runs (for random
    vectors it is 3e-6 / sqrt(P) of the product of their lengths).
    """
    if rows.dtype != torch.float32 or rows.device.type not in ("cpu", "cuda") or rows.shape[1] <= EXACT:
        return products(rows, vectors.T)
    if rows.device.type == "cuda":
        return runs_at_once(rows, vectors)
    note_flops(2 * rows.numel() * len(vectors))
    lefts, rights = rows.split(RUN, 1), vectors.split(RUN, 1)
    runs = torch.empty(len(lefts), len(rows), len(vectors), device="cpu")
    outs = runs.squeeze(2).unbind() if len(vectors) == 1 else runs.unbind()
    # From the last run back: the sum of the rows, which comes next, begins with those that the cache still has.
    with exact_arithmetic(rows.device):
        for out, left, right in reversed(list(zip(outs, lefts, rights, strict=True))):
            if len(vectors) == 1:  # as a matrix of one column it would go the way of large matrices
                torch.mv(left, right[0], out=out)
            else:
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


def host_ring_products(rows: Array, g: Array) -> Array:
    """Return rows (r, P) times g in float64, by numpy; in float32 for runs as `ring_products`. Call it in `quiet`."""
    g = g if g.dtype == rows.dtype else g.astype(rows.dtype)
    if g.dtype == np.float64 or len(g) <= RUN:
        return (rows @ g).astype(np.float64, copy=False)
    runs = [rows[:, start : start + RUN] @ g[start : start + RUN] for start in range(0, len(g), RUN)]
    products: Array = np.add.reduce(runs, 0, dtype=np.float64)
    return products


def host_combination(start: Array, rows: Array, weights: Array, beta: float) -> Tensor:
    """Return beta start + rowsᵀ weights in the dtype of the vectors, by numpy. Call it in `quiet`."""
    result: Array = weights.astype(rows.dtype, copy=False) @ rows
    result += rows.dtype.type(beta) * start
    return torch.from_numpy(result)
