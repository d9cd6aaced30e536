"""The quasi-Newton operator against a dense BFGS recursion, and what decides that a pair is kept."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from subsetopt.seeding import make_generator
from subsetopt.solvers import make_solver
from subsetopt.solvers.cubic_correction import curvature_correction
from subsetopt.solvers.curvature_pairs import GAMMA_PAIRS, CurvaturePairs
from subsetopt.solvers.lbfgs import affordable_pairs
from subsetopt.solvers.ring_passes import RUN, ring_products, runs_at_once
from tests.solvers.problems import PROBLEMS

P, M = 12, 8


def random_pairs(count: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    generator = make_generator(0, "pairs")
    root = torch.randn(P, P, generator=generator, dtype=torch.float64)
    H = root @ root.T / P + torch.eye(P, dtype=torch.float64)
    steps = torch.randn(count, P, generator=generator, dtype=torch.float64)
    return [(s.to(dtype), (H @ s).to(dtype)) for s in steps]


def learnt(pairs: list[tuple[Tensor, Tensor]], g: Tensor, m: int = M) -> CurvaturePairs:
    """A ring of m that has met the pairs on the way to the gradient g: y is the difference of two gradients."""
    ring = CurvaturePairs.empty(m, g)
    for k, (s, y) in enumerate(pairs):
        ring.insert(s, y, g - sum((later for _, later in pairs[k + 1 :]), torch.zeros_like(g)))
    return ring


def dense_inverse(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """BFGS inverse update (Nocedal & Wright, eq. 6.17) from gamma I, oldest pair first."""
    size = len(pairs[0][0])
    H = torch.eye(size, dtype=torch.float64) * max(float((s @ y) / (y @ y)) for s, y in pairs[-GAMMA_PAIRS:])
    for s, y in pairs:
        rho = 1 / (s @ y)
        V = torch.eye(size, dtype=torch.float64) - rho * torch.outer(y, s)
        H = V.T @ H @ V + rho * torch.outer(s, s)
    return H


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("count", [1, 4, M, M + 1, M + 7, 3 * M])  # half-filled; ring start 0, 1, 7; wrapped
def test_product_equals_the_dense_recursion(count: int, dtype: torch.dtype) -> None:
    pairs = random_pairs(count, dtype)
    g = torch.randn(P, generator=make_generator(1, "gradient"), dtype=dtype)
    ring = learnt(pairs, g)
    product, square = ring.apply(g, float(g.double() @ g.double()))
    expected = dense_inverse([(s.double(), y.double()) for s, y in pairs[-M:]]) @ g.double()
    tolerance = 1e-10 if dtype == torch.float64 else 3e-6
    assert product.dtype == dtype
    torch.testing.assert_close(product.double(), expected, rtol=tolerance, atol=tolerance)
    assert square == pytest.approx(float(g.double() @ expected), rel=1e-6)


@pytest.mark.parametrize("correction", [0.5, 2.0])
def test_corrected_curvature_is_that_of_scaled_gradient_changes(correction: float) -> None:
    pairs = random_pairs(4, torch.float64)
    g = torch.randn(P, generator=make_generator(1, "gradient"), dtype=torch.float64)
    s, y = pairs[-1]
    ring = learnt(pairs[:-1], g - y)
    ring.insert(s, y, g, correction)
    product, _ = ring.apply(g, float(g @ g))
    expected = dense_inverse([*pairs[:-1], (s, correction * y)]) @ g
    torch.testing.assert_close(product, expected, rtol=1e-10, atol=1e-10)


def test_float32_runs_are_as_good_as_the_two_loop_recursion() -> None:
    """Longer than a run of float32 sums, ill-conditioned pairs: against float64, with the list-based recursion beside.

    The two-loop recursion (Nocedal & Wright, algorithm 7.4) in float32 is the reference for what rounding allows.
    """
    size, m = 2 * RUN + 77, 20
    draw = make_generator(2, "long pairs")
    diagonal = torch.logspace(0, 3, size, dtype=torch.float64)
    steps = [torch.randn(size, generator=draw, dtype=torch.float64).float() for _ in range(m)]
    pairs = [(s, (diagonal * s.double()).float()) for s in steps]
    g = torch.randn(size, generator=draw, dtype=torch.float64).float()
    ring = learnt(pairs, g, m)
    ring.told = []  # H0 is a multiple of the identity
    product, _ = ring.apply(g, float(g.double() @ g.double()))
    exact = two_loop([(s.double(), y.double()) for s, y in pairs], g.double())
    error, allowed = ((x - exact).norm() / exact.norm() for x in (product.double(), two_loop(pairs, g).double()))
    assert float(error) < max(1e-6, 2 * float(allowed))


def two_loop(pairs: list[tuple[Tensor, Tensor]], g: Tensor) -> Tensor:
    """The list-based recursion in the dtype of its arguments."""
    gamma = max(float((s @ y) / (y @ y)) for s, y in pairs[-GAMMA_PAIRS:])
    q, weights = g.clone(), []
    for s, y in reversed(pairs):
        weights.append(float(s @ q) / float(s @ y))
        q -= weights[-1] * y
    q *= gamma
    for (s, y), weight in zip(pairs, reversed(weights), strict=True):
        q += (weight - float(y @ q) / float(s @ y)) * s
    return q


@pytest.mark.parametrize("product", [ring_products, runs_at_once])
def test_ring_products_in_runs_equal_float64(product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    draw = make_generator(3, "ring products")
    rows, vectors = torch.randn(6, 3 * RUN + 5, generator=draw), torch.randn(3, 3 * RUN + 5, generator=draw)
    exact = rows.double() @ vectors.double().T
    lengths = torch.outer(rows.double().norm(dim=1), vectors.double().norm(dim=1))
    assert product(rows, vectors).dtype == torch.float64
    assert float(((product(rows, vectors) - exact) / lengths).abs().max()) < 1e-7


def test_pairs_that_rounding_has_made_inconsistent_are_left_out_from_the_oldest_on() -> None:
    g = torch.randn(P, generator=make_generator(4, "gradient"), dtype=torch.float64)
    pairs = random_pairs(M, torch.float64)
    ring = learnt(pairs, g)
    ring.gram[0, 3] = 1e308  # s_0·y_1: R can no longer be solved with its oldest pair
    product, square = ring.apply(g, float(g @ g))
    expected = dense_inverse(pairs[M // 2 :]) @ g
    torch.testing.assert_close(product, expected, rtol=1e-10, atol=1e-10)
    assert square == pytest.approx(float(g @ expected))


def test_curvature_correction_is_exact_for_a_cubic_and_absent_in_rounding() -> None:
    """phi(t) = t³/6 - t over [0, 1]: phi'' is 1 at the end and 1/2 on average."""
    decrease, slope, new_slope = 0.0 - (1 / 6 - 1), -1.0, -0.5
    assert curvature_correction(decrease, slope, new_slope, 0.0) == pytest.approx(2.0)
    assert curvature_correction(0.5, -1.0, 0.0, 0.0) == pytest.approx(1.0)  # a quadratic
    assert curvature_correction(decrease, slope, new_slope, 1e-3) == 1.0
    assert curvature_correction(10.0, slope, new_slope, 0.0) == 2.0
    assert curvature_correction(-10.0, slope, new_slope, 0.0) == 0.5


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_pair_is_kept_by_a_relative_test_only(scale: float) -> None:
    ring = CurvaturePairs.empty(M, torch.zeros(2, dtype=torch.float64))
    s, y = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([1e-9, 1.0], dtype=torch.float64)
    ring.insert(s * scale, y * scale, y)
    assert ring.order == [0]
    ring.insert(s * scale, -y * scale, y)
    ring.insert(s * scale, y * torch.tensor([0.0, scale], dtype=torch.float64), y)
    assert ring.order == [0]


def test_rejected_pair_leaves_the_full_ring_as_it_was() -> None:
    g = torch.ones(P, dtype=torch.float64)
    pairs = random_pairs(M, torch.float64)
    ring = learnt(pairs, g)
    before = ring.rows.clone(), ring.gram.copy(), list(ring.order)
    s, y = pairs[-1]
    assert ring.insert(s, -y, 2 * g) == pytest.approx(float(s.norm()))
    assert torch.equal(ring.rows, before[0])
    assert np.array_equal(ring.gram, before[1])
    assert ring.order == before[2]
    np.testing.assert_allclose(ring.with_gradient, (ring.rows @ (2 * g)).numpy(), rtol=1e-12)


def test_memory_is_long_where_it_is_cheap_and_bounded_where_it_is_not() -> None:
    assert affordable_pairs(torch.zeros(171)) == 200
    assert affordable_pairs(torch.zeros(100_000)) == 100
    assert affordable_pairs(torch.empty(11_000_000)) == 10
    assert 10 < affordable_pairs(torch.empty(1_000_000)) < 100


def test_quadratic_is_solved_in_as_many_iterations_as_dimensions() -> None:
    """With (nearly) exact line searches L-BFGS is conjugate gradients on a quadratic (Nocedal & Wright, thm 6.4)."""
    H = torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64))
    objective = PROBLEMS["wood"].objective()
    objective.fun, objective.x0, objective.size = lambda x: 0.5 * x @ H @ x, torch.ones(6, dtype=torch.float64), 6
    solver = make_solver("lbfgs", curvature=1e-8, strong_wolfe=True, gtol=1e-5)
    state = solver.init(objective, objective.initial())
    while solver.terminate(state) is None:
        state = solver.step(objective, state)
    assert state.iterations <= 6


def test_a_search_that_fails_along_the_quasi_newton_line_is_made_again_along_steepest_descent() -> None:
    objective = PROBLEMS["rosenbrock-10"].objective()
    solver = make_solver("lbfgs")
    state = solver.init(objective, objective.initial())
    for _ in range(5):
        state = solver.step(objective, state)
    state.memory.rows.fill_(math.nan)
    after = solver.step(objective, state)
    assert solver.terminate(after) is None
    assert after.loss < state.loss
    assert len(after.memory.order) == 1
    step = after.w - state.w
    torch.testing.assert_close(step / step.norm(), -state.gradient / state.gradient.norm())
