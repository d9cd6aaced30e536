"""Greedy maximisation of facility location: a few rows that every row is close to one of.

F(S) = sum_i max_{j in S} s_ij with s >= 0 is monotone and submodular, so greedy picks reach at least 1 - 1/e of the
optimum (Nemhauser, Wolsey and Fisher 1978), and stale gains bound the true ones from above (Minoux 1978): only the
few candidates with the largest bounds are evaluated for each pick.

apricot and submodlib work on numpy arrays on the host; here similarities stay on the device, computed row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from subsetopt.samplers.draws import wide_dtype


class Facilities(NamedTuple):
    """`selected` `(k,)` in the order of picking, `sizes` `(k,)` the number of rows closest to each, `value` F(S)."""

    selected: Tensor
    sizes: Tensor
    value: float


def facility_location_greedy(similarity: Callable[[Tensor], Tensor], n: int, k: int, probe: int = 32) -> Facilities:
    """Pick `k` of `n` rows. `similarity(rows)` returns s `(len(rows), n)`, non-negative, symmetric.

    Memory beyond `similarity` is O(n probe). Sizes sum to n; a row equally close to several belongs to the earliest.
    """
    bounds = torch.cat([_total(similarity(rows)) for rows in torch.split(torch.arange(n, device="cpu"), 8 * probe)])
    best = torch.zeros(n, dtype=bounds.dtype, device=bounds.device)
    owner = torch.zeros(n, dtype=torch.int64, device=bounds.device)
    selected: list[Tensor] = []
    for pick in range(k):
        row, nearness = _best_candidate(similarity, bounds, best, min(probe, n - pick))
        owner = torch.where(nearness > best, pick, owner)
        best = torch.maximum(best, nearness)
        bounds[row] = -torch.inf
        selected.append(row)
    return Facilities(torch.stack(selected), torch.bincount(owner, minlength=k), float(best.sum()))


def _best_candidate(
    similarity: Callable[[Tensor], Tensor], bounds: Tensor, best: Tensor, probe: int
) -> tuple[Tensor, Tensor]:
    """Return the row of largest gain and its similarities `(n,)`; tightens `bounds` in place."""
    while True:
        rows = bounds.topk(probe).indices
        candidates = similarity(rows).to(best.dtype)
        gains = _total((candidates - best).clamp_min_(0))
        bounds[rows] = gains
        top = gains.argmax()
        if gains[top] >= bounds.max():
            return rows[top], candidates[top]


def _total(rows: Tensor) -> Tensor:
    return rows.sum(1, dtype=wide_dtype(rows.device))
