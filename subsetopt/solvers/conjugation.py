"""The newest curvature pairs made conjugate: then BFGS satisfies the secant equations of all of them, not of the last.

On a quadratic s_i·y_j = s_j·y_i, and pairs s'_i = s_i - sum_j t_ij s_j, y'_i likewise, over the newer j, with
s'_i·y'_j = 0 are pairs of the same Hessian. BFGS updates with conjugate pairs leave each other's secant equations alone
(Nocedal & Wright 2006, section 6.1), where those with s and y of inexact line searches disturb them. Elsewhere
s_i·y_j - s_j·y_i says how far from one quadratic the pairs are: they are combined from the newest back to the first of
which this difference could explain the curvature that is left of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from subsetopt.objective.lapack import dpotrf, dtrtri, dtrtrs
from subsetopt.objective.tally import note_flops

FIRST_TRY = 16  # pairs; twice as many where all of them can be combined
ASYMMETRY = 0.2  # of the curvature that is left of a pair: what the asymmetry of s_i·y_j may amount to
STRICT_ASYMMETRY = 0.1  # the same while there are fewer pairs than variables, as with networks
LARGEST_EXPONENT = 1000  # of a power of two that has an inverse
INDEPENDENT = 1e-8  # share of its curvature that must be left of a pair: the rest is rounding

Matrix = NDArray[np.float64]


class Against(NamedTuple):
    """p of the conjugate pairs (k,) and of all (m,), and R and coupling of those before the conjugate ones."""

    p: Matrix
    with_y: Matrix
    R: Matrix | None
    coupling: Matrix | None


@dataclass(frozen=True)
class ConjugatePairs:
    """The unit upper triangle T (k, k), oldest pair first, with S' = T S, Y' = T Y conjugate for the newest k pairs.

    `curvature` (k,) holds s'_i·y'_i, and `with_newest` (k,) what asymmetry leaves of s'_i·y_k, 0 for the newest pair.
    """

    T: Matrix
    curvature: Matrix
    with_newest: Matrix

    def solve(self, v: Matrix) -> Matrix:
        """Return R⁻¹ v, R being the upper triangle of S'ᵀY' without what asymmetry leaves but in its last column.

        With that column the secant equation of the newest pair holds exactly.
        """
        solution: Matrix = (v - self.with_newest * (v[-1] / self.curvature[-1])) / self.curvature
        return solution

    def solve_transposed(self, v: Matrix) -> Matrix:
        """Return R⁻ᵀ v."""
        solution = v / self.curvature
        solution[-1] -= float(self.with_newest.dot(solution)) / self.curvature[-1]
        return solution

    def weights(self, SY: Matrix, YY: Matrix, Sg: Matrix, Yg: Matrix, gamma: float) -> tuple[Matrix, Matrix]:
        """Return the weights (m,) of the s_i and of the y_i in H g - gamma g, of pairs of which these are the newest.

        With R the upper triangle of `SY` (m, m), D its diagonal and p = R⁻¹ Sᵀg:
        H g = gamma g - gamma Y p + S R⁻ᵀ [(D + gamma YᵀY) p - gamma Yᵀg] (Byrd, Nocedal & Schnabel 1994, eq. 3.1).
        """
        first = self.against(SY, Sg)
        with_y = first.with_y
        return self.along(first, gamma * (YY @ with_y - Yg)), -gamma * with_y

    def against(self, SY: Matrix, Sg: Matrix) -> Against:
        """Return the first half of `weights`: p, whose product with the y_i is taken from g before H0 meets it."""
        T, split = self.T, len(SY) - len(self.T)
        p = self.solve(T.dot(Sg[split:]))  # `dot` is `@` with less around it, which counts for small matrices
        if not split:
            return Against(p, p.dot(T), None, None)
        # In the order of columns, as LAPACK takes it; dtrtrs reads the upper triangle alone.
        R, coupling = np.asfortranarray(SY[:split, :split]), SY[:split, split:]
        with_y = np.concatenate([Sg[:split], T.T @ p])
        with_y[:split] = dtrtrs(R, Sg[:split] - coupling @ with_y[split:])[0]
        return Against(p, with_y, R, coupling)

    def along(self, first: Against, inner: Matrix) -> Matrix:
        """Return the second half of `weights`, those of the s_i; `inner` (m,) is -Y H0 (g - Yᵀp)."""
        T, (p, with_y, R, coupling) = self.T, first
        if R is None or coupling is None:
            steps: Matrix = self.solve_transposed(self.curvature * p + T.dot(inner)).dot(T)
            return steps
        split = len(R)
        with_s = np.empty(len(with_y))
        with_s[:split] = dtrtrs(R, R.diagonal() * with_y[:split] + inner[:split], trans=1)[0]
        own = self.curvature * p + T @ inner[split:] - T @ (with_s[:split] @ coupling)
        with_s[split:] = T.T @ self.solve_transposed(own)
        return with_s


def conjugate(SY: Matrix, asymmetry: float = ASYMMETRY) -> ConjugatePairs:
    """Combine as many of the newest pairs as one quadratic explains, the newest one at least.

    `SY` (m, m) holds s_i·y_j, oldest pair first; all s_i·y_i > 0. With A the symmetric part of `SY` and N the other,
    T A Tᵀ = D is diagonal; pair i is combined where 2 sum_j |T_ij N_ij| <= `asymmetry` D_i.
    """
    # In units of a power of two, so that a loss in other units has the same pairs to the bit.
    exponent = min(max(math.frexp(float(SY[-1, -1]))[1], -LARGEST_EXPONENT), LARGEST_EXPONENT)
    newest_first = SY[::-1, ::-1] * math.ldexp(1.0, -exponent)
    unit = 1 / np.sqrt(newest_first.diagonal())
    count = tried = 0
    while count == tried < len(SY):
        tried = min(max(2 * tried, FIRST_TRY), len(SY))
        T, left = _factors(newest_first[:tried, :tried] * unit[:tried] * unit[:tried, None], asymmetry)
        count = len(T)
    unit = unit[:count]
    T = np.ascontiguousarray((T * unit / unit[:, None])[::-1, ::-1])
    with_newest = T @ newest_first[:count, 0][::-1]
    with_newest[-1] = 0.0
    note_flops(2 * count**2, host=True)
    power = math.ldexp(1.0, exponent)
    return ConjugatePairs(T, (left / unit**2)[::-1] * power, with_newest * power)


def _factors(scaled: Matrix, bound: float) -> tuple[Matrix, Matrix]:
    """Return the unit lower triangle T and the diagonal of T A Tᵀ for the leading pairs that pass.

    `scaled` has the newest pair first and a unit diagonal.
    """
    transposed = scaled.T.copy("F")  # in LAPACK's order, which `scaled` mostly has: numpy is slow where orders differ
    lower, failed = dpotrf(0.5 * (scaled + transposed), lower=1, clean=1)
    count = failed - 1 if failed else len(scaled)
    note_flops(2 * len(scaled) ** 3 // 3, host=True)
    lower = lower[:count, :count]
    roots = lower.diagonal()
    T: Matrix = dtrtri(lower, lower=1)[0] * roots[:, None]
    left = roots * roots
    asymmetry = np.add.reduce(np.abs(T * (scaled - transposed)[:count, :count]), 1)
    usable = (asymmetry <= bound * left) & (left > INDEPENDENT)
    usable[0] = True
    count = int(usable.argmin()) or count  # the first that is not; 0 where all are
    return T[:count, :count], left[:count]
