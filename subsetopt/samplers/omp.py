"""Orthogonal matching pursuit with non-negative refits, in Gram form: choose few columns and weights for a target.

min over w >= 0 with at most k entries of ||b - A w||^2 + ridge ||w||^2, given only G = A^T A and c = A^T b. Picking the
column with the largest correlation and refitting under w >= 0 is Lawson and Hanson's active-set method (1974) stopped
at k passive columns, so the weights are the exact non-negative fit on the columns selected.

Noted for the ledger, with s passive columns of n: 2 n s for the residual of each pick, s^2 for a row of the factor,
2 s^2 for a fit, s^3 / 3 for factorising anew.

scikit-learn's `orthogonal_mp_gram` has no weights >= 0 and no ridge, and scipy's `nnls` no limit on entries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from subsetopt.objective.lapack import dpotrs, dtrtrs
from subsetopt.objective.tally import note_flops

Vector = NDArray[np.float64]


class Matching(NamedTuple):
    """`support` `(s,)` and `weights` `(s,)`, aligned, s <= k: never padded with columns that the fit did not choose."""

    support: NDArray[np.int64]
    weights: Vector


class _Passive:
    """The passive columns: their Gram columns and the growing Cholesky factor L of G_SS + ridge I."""

    def __init__(self, column: Callable[[int], Vector], n: int, k: int, ridge: float) -> None:
        self.column, self.ridge = column, ridge
        self.support: list[int] = []
        self.columns = np.empty((k, n))
        self.factor = np.zeros((k, k), order="F")

    def append(self, i: int) -> bool:
        """Take in column i; False where it depends linearly on those already in."""
        s = len(self.support)
        column = self.column(i)
        pivot = column[i] + self.ridge
        if s:
            note_flops(s * s + 2 * s, host=True)
            row = dtrtrs(self.factor[:s, :s], column[self.support], lower=1)[0]
            pivot -= row @ row
            self.factor[s, :s] = row
        if not pivot > 1e-12 * (column[i] + self.ridge):
            return False
        self.factor[s, s] = np.sqrt(pivot)
        self.columns[s] = column
        self.support.append(i)
        return True

    def keep(self, positions: NDArray[np.int64]) -> None:
        """Drop all but `positions` and factorise anew."""
        s = len(positions)
        self.columns[:s] = self.columns[positions]
        self.support = [self.support[p] for p in positions]
        block = self.columns[:s][:, self.support] + self.ridge * np.eye(s)
        note_flops(s**3 // 3, host=True)
        self.factor[:s, :s] = np.linalg.cholesky(block)

    def solve(self, correlation: Vector) -> Vector:
        """Return the unconstrained fit on the passive columns."""
        s = len(self.support)
        note_flops(2 * s * s, host=True)
        return np.asarray(dpotrs(self.factor[:s, :s], correlation[self.support], lower=1)[0])


def omp_nonnegative(
    column: Callable[[int], Vector], correlation: Vector, k: int, ridge: float = 0.0, tolerance: float = 1e-10
) -> Matching:
    """Return at most `k` columns and weights w > 0 that match the target.

    `column(i)` is G[:, i] `(n,)`; `correlation` is c `(n,)`; `ridge` is absolute. Stops early when no correlation with
    the residual exceeds `tolerance` times the largest one at the start. A column that a refit pushes to zero leaves the
    support and may be picked again later.
    """
    n = len(correlation)
    k = min(k, n)
    passive = _Passive(column, n, k, ridge)
    weights = np.empty(0)
    barred = np.zeros(n, dtype=bool)
    floor = tolerance * max(float(np.max(np.abs(correlation), initial=0.0)), np.finfo(float).tiny)
    for _ in range(3 * k + 10):  # Lawson and Hanson's usual limit; cycling is possible only through rounding
        s = len(passive.support)
        if s == k:
            break
        note_flops(2 * s * n, host=True)
        dual = correlation - weights @ passive.columns[:s]
        dual[barred] = -np.inf
        dual[passive.support] = -np.inf
        i = int(np.argmax(dual))
        if not dual[i] > floor:
            break
        if not passive.append(i):
            barred[i] = True
            continue
        weights = _refit(passive, np.append(weights, 0.0), correlation)
    return Matching(np.array(passive.support, dtype=np.int64), weights)


def _refit(passive: _Passive, weights: Vector, correlation: Vector) -> Vector:
    """Return the non-negative fit on the passive columns, from the feasible `weights`; shrinks the support."""
    while len(passive.support):
        fit = passive.solve(correlation)
        negative = fit <= 0
        if not negative.any():
            return fit
        step = np.min(weights[negative] / (weights[negative] - fit[negative] + np.finfo(float).tiny))
        weights = weights + step * (fit - weights)
        kept = np.flatnonzero(weights > 1e-14 * weights.max(initial=0.0))
        if len(kept) == len(weights):
            kept = np.delete(kept, np.argmin(np.where(negative, weights, np.inf)))
        passive.keep(kept)
        weights = weights[kept]
    return weights
