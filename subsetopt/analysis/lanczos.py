"""The Lanczos process from a random start, and what its tridiagonal matrix T tells of the spectrum of H.

The extreme Ritz values theta of T lie inside the spectrum, so they bound the extreme eigenvalues from one side. From
the other side, v_{k+1} = p_k(H) v_1 has length one, hence |p_k(lambda)| <= 1/|gamma| for every eigenvalue lambda in
whose direction the start has the component gamma, where |p_k(x)| = prod |x - theta_i| / prod beta_i grows steeply
outside the Ritz values. A uniformly random start has |gamma| >= eps but for a probability of at most eps sqrt(2P/pi),
and solving |p_k(x)| = 1/eps bounds the spectrum (van Dorsselaer, Hochstenbach & van der Vorst 2000, SIAM J. Matrix
Anal. Appl. 22, 837-852). The residual |beta_k s_k| only says that *some* eigenvalue is near; this holds also where one
was missed.

What symmetry makes zero, the components of H v_k along v_1 ... v_{k-2}, is measured on the way and tells the rounding
error of the products; the bounds include it. All is covariant: products of c H give c times the results.

scipy's `eigsh` and curvlinops return eigenvalues without these bounds, `eigsh` with vectors on the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from subsetopt.objective.arithmetic import accumulation_dtype
from subsetopt.objective.host import host_read

MatrixProduct = Callable[[Tensor], Tensor]
Vector = NDArray[np.float64]

FAILURE_PROBABILITY = 1e-6
"""Probability, over the random start, that an eigenvalue lies beyond its bound. It enters by its logarithm only."""

ROUNDING = 32.0
"""Rounding error of a product in units of eps ||H||, beside what the asymmetry shows."""

CHECK_EVERY = 4
BISECTIONS = 100


@dataclass(frozen=True)
class Bounded:
    """A number in [lower, upper], and the best guess at it. `residual` is ||H y - theta y|| of its Ritz vector y."""

    value: float
    lower: float
    upper: float
    residual: float = 0.0


@dataclass(frozen=True)
class Tridiagonal:
    """k steps of Lanczos: `diagonal` and `off_diagonal`, both of length k; the last of the latter leads out of T.

    `size` is P. `complete`: the Krylov space is invariant, so that the Ritz values are the distinct eigenvalues.
    `rounding` bounds how far rounding in the products may have moved the Ritz values.
    """

    size: int
    diagonal: Vector
    off_diagonal: Vector
    rounding: float
    complete: bool

    @property
    def smallest(self) -> Bounded:
        """The smallest eigenvalue; an eigenvalue lies below `lower` with `FAILURE_PROBABILITY`."""
        value = float(self.ritz_values[0])
        return Bounded(value, value - self._reach(0) - self.rounding, value + self.rounding, self._residual(0))

    @property
    def largest(self) -> Bounded:
        """The largest eigenvalue; an eigenvalue lies above `upper` with `FAILURE_PROBABILITY`."""
        value = float(self.ritz_values[-1])
        return Bounded(value, value - self.rounding, value + self._reach(-1) + self.rounding, self._residual(-1))

    @property
    def ritz_values(self) -> Vector:
        """The eigenvalues theta of T, ascending."""
        return self._eigen[0]

    def mean(self, function: Callable[[Vector], Vector]) -> float:
        """Return e_1' f(T) e_1, the Gauss quadrature of v' f(H) v for the unit start v."""
        return float(self._eigen[1][0] ** 2 @ function(self.ritz_values))

    @cached_property
    def _eigen(self) -> tuple[Vector, Vector]:
        values, vectors = eigh_tridiagonal(self.diagonal, self.off_diagonal[:-1])
        return np.asarray(values, np.float64), np.asarray(vectors, np.float64)

    def _residual(self, index: int) -> float:
        return 0.0 if self.complete else abs(float(self.off_diagonal[-1] * self._eigen[1][-1, index]))

    def _reach(self, index: int) -> float:
        """Return how far beyond this extreme Ritz value an eigenvalue may lie: log |p_k| = -log eps, by bisection."""
        if self.complete:
            return 0.0
        distances = np.abs(self.ritz_values - self.ritz_values[index])
        component = FAILURE_PROBABILITY * math.sqrt(math.pi / (2 * self.size))
        target = float(np.log(self.off_diagonal).sum()) - math.log(component)
        # |p_k| at a distance x is at least x^k / prod beta, which bounds the root.
        low, high = 0.0, math.exp(target / len(distances))
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if np.log(distances + middle).sum() < target else (low, middle)
        return high


def lanczos(
    product: MatrixProduct,
    start: Tensor,
    *,
    steps: int,
    enough: Callable[[Tridiagonal], bool] = lambda _: False,
    memory: int = 2**30,
) -> Tridiagonal:
    """Run at most `steps` products from `start` (P,), whose dtype and device are those of the products.

    The basis is kept in float64, and each vector is orthogonalised twice against as much of it as fits into `memory`
    bytes: usually all, else the latest vectors; then converged Ritz values reappear, which the bounds and the
    quadrature tolerate (Paige 1980). `enough` looks at T every few steps. One host synchronisation per step.
    Raises `FloatingPointError` where a product is not finite.
    """
    size, wide, eps = start.numel(), accumulation_dtype(start.device), torch.finfo(start.dtype).eps
    steps = min(steps, size)
    window = max(3, memory // (size * torch.finfo(wide).bits // 8))
    basis = torch.empty(min(window, steps), size, dtype=wide, device=start.device)
    vector = start.to(wide)
    vector = vector / torch.linalg.vector_norm(vector)
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    asymmetry = 0.0
    for k in range(steps):
        newest = k % len(basis)
        basis[newest] = vector
        image = product(vector.to(start.dtype)).to(wide)
        vector, numbers = _orthogonalise(image, basis[: k + 1], newest)
        alpha, beta, stray = host_read(numbers)
        if not math.isfinite(alpha + beta):
            raise FloatingPointError("a product with the matrix is not finite")
        diagonal.append(alpha)
        off_diagonal.append(beta)
        asymmetry += stray
        scale = max(map(abs, diagonal + off_diagonal))
        complete = beta <= ROUNDING * eps * scale or k + 1 == size <= len(basis)
        rounding = math.sqrt(asymmetry) + ROUNDING * eps * scale
        found = Tridiagonal(size, np.array(diagonal), np.array(off_diagonal), rounding, complete)
        if complete or ((k + 1) % CHECK_EVERY == 0 and enough(found)):
            break
        vector /= beta
    return found


def _orthogonalise(image: Tensor, rows: Tensor, newest: int) -> tuple[Tensor, Tensor]:
    """Return what is left of H v, and (alpha, its norm beta, sum of squares that should be zero) as one tensor."""
    first = rows @ image
    image = image - rows.T @ first
    second = rows @ image  # twice is enough (Kahan, Parlett)
    image = image - rows.T @ second
    weights = first + second
    neighbours = [newest, newest - 1] if len(rows) > 1 else [newest]
    stray = weights.clone()
    stray[neighbours] = 0
    return image, torch.stack([weights[newest], torch.linalg.vector_norm(image), stray @ stray])
