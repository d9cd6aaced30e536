"""A diagonal H0 = gamma D for L-BFGS, made of the newest pairs and used where these agree with it better than with I.

D_i² = (sum s_i² / s·y) / (sum y_i² / s·y) over the newest `PAIRS` pairs (diagonal scalings by pairs: Gilbert &
Lemaréchal 1989; this one is ours): the geometric mean of H⁻¹ and H, for pairs of a diagonal Hessian H⁻¹ itself. What it
is worth is asked of each new pair, of which D knows nothing yet: log cos² of the angle between s and D y, in the metric
of D⁻¹, less that of s and y. Where the mean of these over the newest pairs is above `MARGIN`, for D or its root, that
one is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from subsetopt.objective.tally import note_flops
from subsetopt.solvers.conjugation import ConjugatePairs
from subsetopt.solvers.inner_products import SPAN, Array
from subsetopt.solvers.ring_passes import host_ring_products

PAIRS = 10  # newest ones of which D is made, and that decide on it
LEAST_MEMORY = 50  # pairs of a ring: beside fewer, D and what is asked of it would cost as much as the ring
DEAR_SAMPLES = 10_000  # of an objective whose evaluations cost so much more than D that rings of `PAIRS` have one, too
FEWEST = 3  # pairs that have been compared with the D of those before them
MARGIN = 0.1  # mean gain in log cos²; chosen on development problems, with the rest
OF_A_QUADRATIC = 0.5  # the same where one quadratic explains all pairs, which a D that changes disturbs
POWERS = (0.5, 1.0)  # of D
LEAST = 1e-4  # of the mean of the squares: added to each

Vector = NDArray[np.float64]
Gains = list[float]  # for each of `POWERS`


class Product(NamedTuple):
    """H g (P,), g·H g, the products (r,) of all y in the ring with H g - Sᵀ `with_s`, and the weights of the s_i."""

    vector: Vector
    square: float
    with_y_rows: Vector
    with_s: Vector


def diagonal(rows: Array, slots: Sequence[int], curvature: Vector) -> Vector | None:
    """Return D (P,) of the pairs in `slots`, with `curvature` s·y (k,), up to a factor; None out of range.

    Rows 2i and 2i + 1 (P,) are s_i and y_i. In units of a power of two, so that a loss in other units has the same D to
    the bit.
    """
    width, s = rows.shape[1], 2 * np.array(slots)
    note_flops(8 * len(slots) * width + 8 * width, host=True)
    weights, a, b = 1 / curvature, np.empty(width), np.empty(width)
    for span in _spans(width):
        a[span] = weights @ np.square(rows[s, span], dtype=np.float64)
        b[span] = weights @ np.square(rows[s + 1, span], dtype=np.float64)
    d: Vector = (a + LEAST * a.mean()) / (b + LEAST * b.mean())
    np.sqrt(d, out=d)
    largest = float(d.max())
    if not (float(d.min()) > 0 and largest < math.inf):
        return None
    exponent = math.frexp(largest)[1]
    return np.ldexp(d, -exponent)


def _spans(width: int) -> Iterator[slice]:
    """Return parts of long rows that stay in a cache: whole copies of ten of them would cost several times as much."""
    return (slice(start, min(start + SPAN, width)) for start in range(0, width, SPAN))


def gains(s: Array, y: Array, d: Vector | None) -> Gains:
    """Return for each power of D, made of the pairs before (s, y), by how much log cos² grows; 0 without D."""
    if d is None:
        return [0.0] * len(POWERS)
    note_flops((4 + 6 * len(POWERS)) * len(s), host=True)
    s, y = s.astype(np.float64, copy=False), y.astype(np.float64, copy=False)
    plain = float(s @ s), float(y @ y)
    told = []
    for power in POWERS:
        scale = powered(d, power)
        weighted = float(s @ (s / scale)), float(y @ (y * scale))
        quotient = plain[0] / weighted[0] * (plain[1] / weighted[1]) if min(weighted) > 0 else math.nan
        told.append(math.log(quotient) if 0 < quotient < math.inf else 0.0)
    return told


def powered(d: Vector, power: float) -> Vector:
    """Return the power of D."""
    return d if power == 1 else np.sqrt(d)


def chosen(told: list[Gains], margin: float = MARGIN) -> float | None:
    """Return the power of D that the gains of the newest pairs speak for, or None."""
    newest = told[-PAIRS:]
    if len(newest) < FEWEST:
        return None
    means = [math.fsum(column) / len(newest) for column in zip(*newest, strict=True)]
    best = max(means)
    return POWERS[means.index(best)] if best > margin else None


def largest_quotient(rows: Array, slots: Sequence[int], curvature: Vector, d: Vector) -> float:
    """Return gamma: the largest s·y / y·D y of the pairs in `slots`; see `diagonal`."""
    y = 2 * np.array(slots) + 1
    note_flops(3 * len(slots) * len(d), host=True)
    weighted = sum(np.square(rows[y, span], dtype=np.float64) @ d[span] for span in _spans(len(d)))
    return float((curvature / weighted).max())


def product(
    newest: ConjugatePairs, SY: Vector, Sg: Vector, g: Array, rows: tuple[Array, Array], slots: list[int], d: Vector
) -> Product:
    """Return H g with H0 = d (P,), of the pairs in `slots`, oldest first; `rows` are all s and all y of the ring.

    With q = g - Yᵀ p, p = R⁻¹ Sᵀ g: H g = H0 q + Sᵀ R⁻ᵀ (diag(R) p - Y H0 q), which is the formula of
    `ConjugatePairs.weights` without products y_i·H0 y_j, for one more pass over the y (Nocedal & Wright 2006,
    algorithm 7.4 in matrices). One pass over rows of s and two over those of y.
    """
    steps, changes = rows
    note_flops(6 * changes.size + 6 * len(d), host=True)
    kind, wide = changes.dtype, g.astype(np.float64, copy=False)
    first = newest.against(SY, Sg)
    weights = np.zeros(len(changes))
    weights[slots] = first.with_y
    r = d * (wide - weights.astype(kind, copy=False) @ changes)
    with_y_rows = host_ring_products(changes, r)
    with_s = newest.along(first, -with_y_rows[slots])
    weights[slots] = with_s
    square = float(wide @ r) + float(Sg @ with_s)
    r += weights.astype(kind, copy=False) @ steps
    return Product(r, square, with_y_rows, with_s)
