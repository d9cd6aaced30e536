"""Extreme eigenvalues with bounds, and effective dimension, of a symmetric matrix known by its products alone.

Small matrices are written out by P products. For the others, Lanczos from random starts (see `lanczos.py`) bounds the
extreme eigenvalues, and stochastic Lanczos quadrature estimates the trace: the mean of v' f(H) v over starts v on the
unit sphere, times P, is tr f(H), and Lanczos gives each v' f(H) v by Gauss quadrature (Ubaru, Chen & Saad 2017, SIAM J.
Matrix Anal. Appl. 38, 1075-1099). Hutch++ would deflate the large eigenvalues first; here f <= 1, the relative
standard error of n starts is at most sqrt(2 / (n d)) for a trace d, and deflation has nothing to gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from subsetopt.analysis.lanczos import ROUNDING, Bounded, MatrixProduct, Tridiagonal, Vector, lanczos
from subsetopt.errors import SettingError
from subsetopt.seeding import make_generator

DENSE_LIMIT = 500
"""Matrices up to this size are written out: as many products as a few Lanczos runs, and exact."""

CONFIDENCE = 0.95
QUADRATURE_TOLERANCE = 0.01


@dataclass(frozen=True)
class TraceEstimate:
    """An estimated trace: `error` is the half-width of a 95 % interval, 0 where it was computed exactly (no probes)."""

    value: float
    error: float
    probes: int


@dataclass(frozen=True)
class Spectrum:
    """What is known of the spectrum of H. `exact` says that the matrix was written out; `products` counts."""

    smallest: Bounded
    largest: Bounded
    products: int
    exact: bool
    effective_dimension: TraceEstimate | None = None

    @property
    def condition(self) -> Bounded | None:
        """lambda_max / lambda_min; None unless the smallest eigenvalue is positive beyond its bound."""
        low, high = self.smallest, self.largest
        if low.lower <= 0:
            return None
        return Bounded(high.value / low.value, high.lower / low.upper, high.upper / low.lower)


@dataclass
class _Counted:
    """Counts products, and tells of each before it is made."""

    product: MatrixProduct
    tell: Callable[[int], None]
    calls: int = 0

    def __call__(self, v: Tensor) -> Tensor:
        self.calls += 1
        self.tell(self.calls)
        return self.product(v)


def effective_count(eigenvalues: Vector, damping: float, shift: float = 0.0) -> Vector:
    """Return x / (x + damping) for x = max(lambda - shift, 0): the share of each direction that the data determine.

    Its sum is tr(H (H + lambda)^-1), MacKay's (1992) number of well-determined parameters, with H - shift I for H.
    Directions of negative curvature count nothing: there the quotient has a pole and no such meaning.
    """
    x = np.maximum(eigenvalues - shift, 0.0)
    return np.asarray(x / (x + damping), np.float64)


def find_spectrum(
    product: MatrixProduct,
    like: Tensor,
    *,
    damping: float | None = None,
    shift: float = 0.0,
    rtol: float = 0.1,
    max_products: int = 300,
    probes: int = 8,
    dense_limit: int = DENSE_LIMIT,
    seed: int = 0,
    memory: int = 2**30,
    tell: Callable[[int], None] = lambda _: None,
) -> Spectrum:
    """Bound the extreme eigenvalues of H, and estimate its effective dimension where `damping` is given.

    `product`: v -> H v for v of shape (P,), with the dtype and device of `like`. Lanczos stops when both bounds are
    within `rtol` of the eigenvalues, or after `max_products` per start. `probes` starts estimate the trace; the run
    for the eigenvalues is the first of them. `memory` (bytes) bounds the basis; `tell` hears the number of each
    product before it is made. Deterministic in `seed`. Raises `SettingError`, and `FloatingPointError` where a product
    is not finite.
    """
    _check(damping, rtol, max_products, probes)
    counted = _Counted(product, tell)
    if like.numel() <= dense_limit:
        return _dense(counted, like, damping, shift)

    def bounded(found: Tridiagonal) -> bool:
        low, high = found.smallest, found.largest
        return low.value - low.lower <= rtol * abs(low.value) and high.upper - high.value <= rtol * abs(high.value)

    first = lanczos(counted, _start(like, seed, 0), steps=max_products, enough=bounded, memory=memory)
    estimate = None
    if damping is not None:
        starts = (_start(like, seed, probe) for probe in range(1, probes))
        runs = [_Quadrature(damping, shift).run(counted, start, max_products, memory) for start in starts]
        values = [first.mean(lambda x: effective_count(x, damping, shift)), *[value for value, _ in runs]]
        estimate = _estimate(np.array(values), max(change for _, change in runs), like.numel())
    return Spectrum(first.smallest, first.largest, counted.calls, False, estimate)


@dataclass
class _Quadrature:
    """Runs Lanczos until the quadrature has settled; `change` is the last change of its value."""

    damping: float
    shift: float
    value: float = math.inf
    change: float = math.inf
    steps: int = 0

    def run(self, product: MatrixProduct, start: Tensor, steps: int, memory: int) -> tuple[float, float]:
        """Return v' f(H) v and how far it may be off."""
        found = lanczos(product, start, steps=steps, enough=self._settled, memory=memory)
        self._settled(found)
        return self.value, 0.0 if found.complete else self.change

    def _settled(self, found: Tridiagonal) -> bool:
        if len(found.diagonal) > self.steps:
            value = found.mean(lambda x: effective_count(x, self.damping, self.shift))
            self.value, self.change, self.steps = value, abs(value - self.value), len(found.diagonal)
        return self.change <= QUADRATURE_TOLERANCE * self.value


def _estimate(values: Vector, quadrature_error: float, size: int) -> TraceEstimate:
    """Return P times the mean of the probes, with Student's interval widened by the error of the quadrature."""
    return TraceEstimate(size * float(values.mean()), size * (student_error(values) + quadrature_error), len(values))


def student_error(values: Vector) -> float:
    """Return the half-width of Student's 95 % interval of the mean of `values`, two or more independent draws."""
    count = len(values)
    return float(values.std(ddof=1)) / math.sqrt(count) * float(student.ppf(0.5 + CONFIDENCE / 2, count - 1))


def _dense(product: _Counted, like: Tensor, damping: float | None, shift: float) -> Spectrum:
    unit = torch.zeros_like(like)
    matrix = np.empty((like.numel(), like.numel()))
    for index in range(len(matrix)):
        unit[index] = 1
        matrix[index] = product(unit).double().cpu().numpy()
        unit[index] = 0
    if not np.isfinite(matrix).all():
        raise FloatingPointError("a product with the matrix is not finite")
    values = np.asarray(np.linalg.eigvalsh(0.5 * (matrix + matrix.T)), np.float64)
    skew = 0.5 * float(np.linalg.norm(matrix - matrix.T))
    error = skew + ROUNDING * torch.finfo(like.dtype).eps * float(np.abs(values).max())
    smallest, largest = (Bounded(float(x), float(x) - error, float(x) + error) for x in values[[0, -1]])
    estimate = None
    if damping is not None:
        estimate = TraceEstimate(float(effective_count(values, damping, shift).sum()), 0.0, 0)
    return Spectrum(smallest, largest, product.calls, True, estimate)


def _start(like: Tensor, seed: int, probe: int) -> Tensor:
    """Return a Gaussian vector, uniform on the sphere once normalised; drawn on the CPU, the same on every device."""
    generator = make_generator(seed, f"spectrum:{probe}")
    return torch.randn(like.numel(), generator=generator, dtype=torch.float64).to(like)


def _check(damping: float | None, rtol: float, max_products: int, probes: int) -> None:
    if damping is not None and not (math.isfinite(damping) and damping > 0):
        raise SettingError("damping", damping, "must be a finite number above 0", "try the L2 strength of the run")
    if not rtol > 0:
        raise SettingError("rtol", rtol, "must be above 0", "try 0.1")
    if max_products < 2:
        raise SettingError("products", max_products, "must be at least 2", "try 300")
    if probes < 2:
        raise SettingError("probes", probes, "an error bar needs at least 2", "try 8")
