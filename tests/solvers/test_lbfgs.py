"""The quasi-Newton operator against a dense BFGS recursion, and what decides that a pair is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from subsetopt.seeding import make_generator
from subsetopt.solvers import make_solver
from subsetopt.solvers.lbfgs import CurvaturePairs, affordable_pairs
from tests.solvers.problems import PROBLEMS

P, M = 12, 8


def random_pairs(count: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    generator = make_generator(0, "pairs")
    root = torch.randn(P, P, generator=generator, dtype=torch.float64)
    H = root @ root.T / P + torch.eye(P, dtype=torch.float64)
    steps = torch.randn(count, P, generator=generator, dtype=torch.float64)
    return [(s.to(dtype), (H @ s).to(dtype)) for s in steps]


def dense_inverse(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """BFGS inverse update (Nocedal & Wright, eq. 6.17) from gamma I, oldest pair first."""
    s, y = pairs[-1]
    H = torch.eye(P, dtype=torch.float64) * (s @ y) / (y @ y)
    for s, y in pairs:
        rho = 1 / (s @ y)
        V = torch.eye(P, dtype=torch.float64) - rho * torch.outer(y, s)
        H = V.T @ H @ V + rho * torch.outer(s, s)
    return H


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("count", [1, 4, M, M + 1, M + 7, 3 * M])  # half-filled; ring start 0, 1, 7; wrapped
def test_product_equals_the_dense_recursion(count: int, dtype: torch.dtype) -> None:
    pairs = random_pairs(count, dtype)
    ring = CurvaturePairs.empty(M, torch.zeros(P, dtype=dtype))
    g = torch.randn(P, generator=make_generator(1, "gradient"), dtype=dtype)
    for s, y in pairs:
        length = ring.insert(s, y, g)
        assert length == pytest.approx(float(s.norm()))
    product, square = ring.apply(g, float(g.double() @ g.double()))
    expected = dense_inverse([(s.double(), y.double()) for s, y in pairs[-M:]]) @ g.double()
    tolerance = 1e-10 if dtype == torch.float64 else 3e-6
    assert product.dtype == dtype
    torch.testing.assert_close(product.double(), expected, rtol=tolerance, atol=tolerance)
    assert square == pytest.approx(float(g.double() @ expected), rel=1e-6)


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
    ring = CurvaturePairs.empty(M, torch.zeros(P, dtype=torch.float64))
    g = torch.ones(P, dtype=torch.float64)
    for s, y in random_pairs(M, torch.float64):
        ring.insert(s, y, g)
    before = ring.rows.clone(), ring.gram.copy(), list(ring.order)
    ring.insert(s, -y, 2 * g)
    assert torch.equal(ring.rows, before[0])
    assert np.array_equal(ring.gram, before[1])
    assert ring.order == before[2]
    np.testing.assert_allclose(ring.with_gradient, (ring.rows @ (2 * g)).numpy(), rtol=1e-12)


def test_memory_is_long_where_it_is_cheap_and_bounded_where_it_is_not() -> None:
    assert affordable_pairs(torch.zeros(171)) == 100
    assert affordable_pairs(torch.empty(11_000_000)) == 10
    assert 10 < affordable_pairs(torch.empty(1_000_000)) < 100


def test_quadratic_is_solved_in_as_many_iterations_as_dimensions() -> None:
    """With (nearly) exact line searches L-BFGS is conjugate gradients on a quadratic (Nocedal & Wright, thm 6.4)."""
    H = torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64))
    objective = PROBLEMS["wood"].objective()
    objective.fun, objective.x0, objective.size = lambda x: 0.5 * x @ H @ x, torch.ones(6, dtype=torch.float64), 6
    solver = make_solver("lbfgs", curvature=1e-8, gtol=1e-5)
    state = solver.init(objective, objective.initial())
    while solver.terminate(state) is None:
        state = solver.step(objective, state)
    assert state.iterations <= 6
