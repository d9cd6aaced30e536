"""The trust-region subproblem in a Krylov space: Lanczos on the device, a tridiagonal problem on the host.

min g·p + p·H p / 2 over ||p||_M <= Delta, with ||p||_M² = p·M p and p in the space spanned by M⁻¹g, M⁻¹H M⁻¹g, ...
(GLTR: Gould, Lucidi, Roma & Toint 1999); M is the preconditioner, the identity if there is none. In a Lanczos basis Q
with Q'M Q = I it reads min ||g||_M⁻¹ h_1 + h·T h / 2 over ||h|| <= Delta with T = Q'H Q tridiagonal, p = Q h. Until the
boundary is met h is the preconditioned conjugate-gradient iterate of Steihaug and Toint; afterwards it continues
improving along the boundary. Another radius needs another h only, and no product.

scipy's `trust-krylov` moves every vector to the host, has no preconditioner and no limit on products.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subsetopt.devices import moved
from subsetopt.objective.host import host_read
from subsetopt.objective.tally import note_flops
from subsetopt.solvers.inner_products import dot, products
from subsetopt.solvers.ring_passes import combination

Vector = NDArray[np.float64]
Operator = Callable[[Tensor], Tensor]
SECULAR_STEPS = 60
TRIDIAGONAL_FLOPS = 30
"""k^2 operations, about, of the eigenvalues and vectors of a tridiagonal matrix by LAPACK's MRRR, and a product with
these (Dhillon, Parlett and Voemel 2006: a few dozen for each entry)."""


@dataclass(frozen=True)
class TridiagonalStep:
    """Solution of the subproblem: coefficients h, multiplier lambda >= 0 and the predicted decrease of the model."""

    coefficients: Vector
    multiplier: float
    decrease: float

    @property
    def length(self) -> float:
        """||h|| = ||p||_M."""
        unit = _unit(float(np.abs(self.coefficients).max()))
        return unit * float(np.linalg.norm(self.coefficients / unit))


@dataclass
class KrylovSpace:
    """Rows q_k of `basis` (capacity, P) with Q'M Q = I that start along M⁻¹g, and the tridiagonal T they make of H.

    `dual` has the rows M q_k, which without a preconditioner are those of `basis` itself. `start_norm` is ||g|| in the
    norm of M⁻¹, `inverse` the product with M⁻¹. `calls` counts products, those that were not finite included.
    """

    basis: Tensor
    dual: Tensor
    start_norm: float
    inverse: Operator | None = None
    diagonal: list[float] = field(default_factory=list)
    off_diagonal: list[float] = field(default_factory=list)
    calls: int = 0

    @classmethod
    def of(cls, gradient: Tensor, gradient_l2: float, capacity: int, inverse: Operator | None = None) -> KrylovSpace:
        """Return the space of g alone, without a product yet; with a preconditioner, one synchronisation."""
        basis = gradient.new_empty(capacity, gradient.numel())
        if inverse is None:
            torch.mul(gradient, 1 / gradient_l2, out=basis[0])
            return cls(basis, basis, gradient_l2)
        first = inverse(gradient)
        (square,) = host_read(dot(gradient, first).reshape(1))
        norm = math.sqrt(square) if square > 0 else math.nan
        dual = torch.empty_like(basis)
        torch.mul(first, 1 / norm, out=basis[0])
        torch.mul(gradient, 1 / norm, out=dual[0])
        return cls(basis, dual, norm, inverse)

    def __len__(self) -> int:
        return len(self.diagonal)

    @property
    def complete(self) -> bool:
        """True where no further direction is to be had: the space is invariant, or the basis is full."""
        if len(self) == 0:
            return False
        floor = torch.finfo(self.basis.dtype).eps * max(map(abs, self.diagonal + self.off_diagonal))
        return self.off_diagonal[-1] <= floor or len(self) == len(self.basis)

    def extend(self, product: Operator) -> bool:
        """Apply H to the newest basis vector and orthogonalise; False where the product is not finite. One sync."""
        k = len(self)
        self.calls += 1
        rows, dual = self.basis[: k + 1], self.dual[: k + 1]
        vector = product(rows[k])
        diagonal = []
        for _ in range(2):  # twice is enough (Kahan, Parlett)
            weights = products(rows, vector.unsqueeze(1)).squeeze(1)
            diagonal.append(weights[k])
            vector = combination(vector, dual, weights.to(vector.dtype), alpha=-1)
        solved = vector if self.inverse is None else self.inverse(vector)
        alpha, square = host_read(torch.stack([diagonal[0] + diagonal[1], dot(vector, solved)]))
        if not (math.isfinite(alpha) and math.isfinite(square)):
            return False
        self.diagonal.append(alpha)
        self.off_diagonal.append(math.sqrt(max(square, 0.0)))  # rounding may leave the last one below zero
        if not self.complete:
            torch.mul(solved, 1 / self.off_diagonal[-1], out=self.basis[k + 1])
            if self.inverse is not None:
                torch.mul(vector, 1 / self.off_diagonal[-1], out=self.dual[k + 1])
        return True

    def solve(self, radius: float) -> TridiagonalStep:
        """Return the solution for the trust radius `radius` in this space. No product, no synchronisation."""
        return solve_tridiagonal(np.array(self.diagonal), np.array(self.off_diagonal[:-1]), self.start_norm, radius)

    def residual(self, step: TridiagonalStep) -> float:
        """Return ||(H + lambda M) p + g|| in the norm of M⁻¹ of the solution p = Q h, from its last coefficient."""
        return self.off_diagonal[-1] * abs(float(step.coefficients[-1]))

    def slope(self, step: TridiagonalStep) -> float:
        """Return g·p = ||g||_M⁻¹ h_1."""
        return self.start_norm * float(step.coefficients[0])

    def vector(self, step: TridiagonalStep) -> Tensor:
        """Return p = Q h, shape (P,)."""
        weights = moved(torch.from_numpy(step.coefficients), self.basis.device, self.basis.dtype)
        return combination(torch.zeros_like(self.basis[0]), self.basis[: len(weights)], weights, beta=0.0)


def solve_tridiagonal(diagonal: Vector, off_diagonal: Vector, start_norm: float, radius: float) -> TridiagonalStep:
    """Solve min `start_norm` h_1 + h·T h / 2 over ||h|| <= radius by the eigenvalues of T (Moré & Sorensen 1983).

    In the hard case, where (T - lambda_min I) h = -`start_norm` e_1 has a solution inside, the lowest eigenvector is
    added. Lengths are in units of a power of two near `radius`: that rounds nothing, and squares do not underflow.
    """
    note_flops(TRIDIAGONAL_FLOPS * len(diagonal) ** 2, host=True)
    from scipy.linalg import eigh_tridiagonal  # here: all solvers are imported when one is asked for

    values, vectors = (np.asarray(part, np.float64) for part in eigh_tridiagonal(diagonal, off_diagonal))
    unit = _unit(radius, near=start_norm)
    step = _within(values, vectors, start_norm / unit, radius / unit)
    return TridiagonalStep(step.coefficients * unit, step.multiplier, step.decrease * unit * unit)


def _unit(length: float, near: float | None = None) -> float:
    """Return the power of two at `length`, at most 2^500 times larger or smaller than `near`."""
    exponent = math.frexp(length)[1]
    if near is not None:
        middle = math.frexp(near)[1]
        exponent = min(max(exponent, middle - 500), middle + 500)
    return math.ldexp(1.0, min(max(exponent, -1022), 1023))


def _within(values: Vector, vectors: Vector, start_norm: float, radius: float) -> TridiagonalStep:
    c = start_norm * vectors[0]
    if values[0] > 0:
        h = -c / values
        if np.linalg.norm(h) <= radius:
            return _step(vectors @ h, 0.0, values, h, c)
    lowest = max(0.0, -float(values[0]))
    span = float(np.abs(values).max()) or start_norm / radius
    tiny = np.finfo(np.float64).eps * span
    at_limit = np.where(values + lowest > tiny, -c / np.maximum(values + lowest, tiny), 0.0)
    inside = radius**2 - float(at_limit @ at_limit)
    if inside > 0 and abs(c[0]) <= tiny * radius:
        at_limit[0] += math.copysign(math.sqrt(inside), -c[0])
        return _step(vectors @ at_limit, lowest, values, at_limit, c)
    multiplier = _secular_root(values, c, radius, lowest)
    h = -c / (values + multiplier) if math.isfinite(multiplier) else -radius * (c / np.linalg.norm(c))
    return _step(vectors @ h, multiplier, values, h, c)


def _secular_root(values: Vector, c: Vector, radius: float, lowest: float) -> float:
    """Return lambda > lowest with ||c / (values + lambda)|| = radius: Newton on 1/||h|| within a bracket."""
    low, high = lowest, lowest + float(np.linalg.norm(c)) / radius
    multiplier = high
    for _ in range(SECULAR_STEPS if math.isfinite(high) else 0):  # a radius of next to nothing: steepest descent
        shifted = values + multiplier
        length = float(np.linalg.norm(c / shifted))
        if abs(length - radius) <= 1e-12 * radius:
            break
        low, high = (multiplier, high) if length > radius else (low, multiplier)
        slope = float(np.sum((c / shifted / length) ** 2 / shifted)) / length  # of 1/||h||
        multiplier += (1 / radius - 1 / length) / slope
        if not low < multiplier < high:
            multiplier = 0.5 * (low + high)
    return multiplier


def _step(coefficients: Vector, multiplier: float, values: Vector, h: Vector, c: Vector) -> TridiagonalStep:
    return TridiagonalStep(coefficients, multiplier, -float(c @ h + 0.5 * values @ h**2))
