"""The newest curvature pairs made conjugate: then BFGS satisfies the secant equations of all of them, not of the last.

On a quadratic s_i·y_j = s_j·y_i, and pairs s'_i = s_i - sum_j t_ij s_j, y'_i likewise, over the newer j, with
s'_i·y'_j = 0 are pairs of the same Hessian. BFGS updates with conjugate pairs leave each other's secant equations alone
(Nocedal & Wright 2006, section 6.1), where those with s and y of inexact line searches disturb them. Elsewhere
s_i·y_j - s_j·y_i says how far from one quadratic the pairs are: they are combined from the newest back to the first of
which this difference could explain the curvature that is left of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.lapack import dpotrf, dtrtri

from subsetopt.objective.tally import note_flops

MOST_PAIRS = 64  # combined at most: their algebra grows with the cube
ASYMMETRY = 0.1  # of the curvature that is left of a pair: what the asymmetry of s_i·y_j may amount to
INDEPENDENT = 1e-8  # share of its curvature that must be left of a pair: the rest is rounding

Matrix = NDArray[np.float64]


def conjugating(SY: Matrix) -> Matrix | None:
    """Return the unit upper triangle T (k, k), or None, with S' = T S, Y' = T Y conjugate for the newest k pairs.

    `SY` (m, m) holds s_i·y_j of the newest pairs, oldest first, all of which have s_i·y_i > 0. With A the symmetric
    part of `SY` and N its antisymmetric part, T A Tᵀ = D is diagonal; pair i is combined where
    2 sum_j |T_ij N_ij| <= `ASYMMETRY` D_i.
    """
    count = min(len(SY), MOST_PAIRS)
    newest_first = SY[::-1, ::-1][:count, :count]
    unit = 1 / np.sqrt(newest_first.diagonal())
    scaled = newest_first * unit * unit[:, None]
    halves = 0.5 * scaled
    lower, failed = dpotrf(halves + halves.T, lower=1, clean=1, overwrite_a=1)
    count = failed - 1 if failed else count
    note_flops(2 * count**3 // 3, host=True)
    if count < 2:
        return None
    lower = lower[:count, :count]
    roots = lower.diagonal()
    T = dtrtri(lower, lower=1)[0] * roots[:, None]
    left = roots * roots
    asymmetry = np.abs(T * (scaled - scaled.T)[:count, :count]).sum(1)
    usable = (asymmetry <= ASYMMETRY * left) & (left > INDEPENDENT)
    usable[0] = True
    count = int(usable.argmin()) or count
    if count < 2:
        return None
    T = T[:count, :count] * unit[:count] / unit[:count, None]
    return T[::-1, ::-1]


def combined(T: Matrix, SY: Matrix, YY: Matrix, Sg: Matrix, Yg: Matrix) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """Return the inner products SᵀY, YᵀY, Sᵀg and Yᵀg of all pairs once the newest len(T) are combined by T."""
    count = len(T)
    note_flops(8 * len(SY) * count**2, host=True)
    SY, YY, Sg, Yg = SY.copy(), YY.copy(), Sg.copy(), Yg.copy()
    for square in (SY, YY):
        square[-count:] = T @ square[-count:]
        square[:, -count:] = square[:, -count:] @ T.T
    for vector in (Sg, Yg):
        vector[-count:] = T @ vector[-count:]
    return SY, YY, Sg, Yg
