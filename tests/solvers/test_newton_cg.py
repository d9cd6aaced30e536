"""The Krylov subproblem against dense algebra, and the trust region around it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from subsetopt.seeding import make_generator
from subsetopt.solvers import make_solver
from subsetopt.solvers.krylov import KrylovSpace, solve_tridiagonal
from subsetopt.solvers.minimize import run
from tests.solvers.problems import PROBLEMS, TorchObjective

P = 9


def symmetric(lowest: float) -> torch.Tensor:
    root = torch.randn(P, P, generator=make_generator(2, "H"), dtype=torch.float64)
    H = root @ root.T / P
    return H + (lowest - torch.linalg.eigvalsh(H)[0]) * torch.eye(P, dtype=torch.float64)


@pytest.mark.parametrize("lowest", [0.1, -0.5])
@pytest.mark.parametrize("radius", [1e-3, 0.5, 1e3])
def test_full_space_satisfies_the_dense_optimality_conditions(lowest: float, radius: float) -> None:
    """(H + lambda I) p = -g, lambda >= 0, ||p|| = Delta on the boundary, H + lambda I positive semidefinite."""
    H, g = symmetric(lowest), torch.randn(P, generator=make_generator(3, "g"), dtype=torch.float64)
    space = KrylovSpace.of(g, float(g.norm()), P)
    while not space.complete:
        assert space.extend(lambda v: H @ v)
    assert len(space) == P
    step = space.solve(radius)
    p, multiplier = space.vector(step), step.multiplier
    assert torch.linalg.vector_norm(H @ p + multiplier * p + g) <= 1e-9 * max(1.0, radius)
    assert float(p.norm()) <= radius * (1 + 1e-9)
    assert multiplier == 0 or float(p.norm()) == pytest.approx(radius)
    assert multiplier >= -lowest - 1e-9
    assert step.decrease == pytest.approx(-float(g @ p + 0.5 * p @ H @ p), rel=1e-8)


def test_hard_case_takes_the_lowest_eigenvector_to_the_boundary() -> None:
    """T = diag(1, -2), g orthogonal to the lowest eigenvector: p = (-1/3, ±sqrt(Delta² - 1/9)), lambda = 2."""
    step = solve_tridiagonal(np.array([1.0, -2.0]), np.array([0.0]), 1.0, 2.0)
    assert step.multiplier == pytest.approx(2.0)
    assert np.abs(step.coefficients) == pytest.approx([1 / 3, math.sqrt(4 - 1 / 9)])
    assert step.length == pytest.approx(2.0)


@pytest.mark.parametrize("exponent", [-990, -540, 480])
@pytest.mark.parametrize("radius", [0.4, 2.0, 1e3])
def test_a_power_of_two_in_lengths_scales_the_step_exactly(exponent: int, radius: float) -> None:
    """2^e g and 2^e Delta have the step of g and Delta times 2^e, also where squares of lengths underflow."""
    T = np.array([1.0, 2.0, 3.0]), np.array([0.5, -0.25])
    step, scaled = (solve_tridiagonal(*T, 2.0**e, radius * 2.0**e) for e in (0, exponent))
    assert np.array_equal(scaled.coefficients, 2.0**exponent * step.coefficients)
    assert scaled.multiplier == step.multiplier and scaled.length == 2.0**exponent * step.length
    assert scaled.decrease == step.decrease * 2.0**exponent * 2.0**exponent


def test_a_radius_whose_square_underflows_is_met() -> None:
    """No curvature: the step is -Delta g/||g||. At a kink the radius falls with |w|, here to 1e-162."""
    step = solve_tridiagonal(np.array([0.0]), np.array([]), math.sqrt(3), 8.77e-163)
    assert step.coefficients == pytest.approx([-8.77e-163], abs=0) and step.length == pytest.approx(8.77e-163, abs=0)
    assert step.decrease == pytest.approx(math.sqrt(3) * 8.77e-163, abs=0)


def test_interior_iterates_are_those_of_conjugate_gradients() -> None:
    """Until the boundary is met the step is Steihaug's: the minimiser over the Krylov space, here by dense algebra."""
    H, g = symmetric(0.1), torch.randn(P, generator=make_generator(3, "g"), dtype=torch.float64)
    space = KrylovSpace.of(g, float(g.norm()), P)
    for k in range(1, 5):
        space.extend(lambda v: H @ v)
        step = space.solve(1e6)
        krylov = torch.stack([torch.linalg.matrix_power(H, i) @ g for i in range(k)], dim=1)
        expected = -krylov @ torch.linalg.solve(krylov.T @ H @ krylov, krylov.T @ g)
        torch.testing.assert_close(space.vector(step), expected, rtol=1e-6, atol=1e-8)
        assert space.residual(step) == pytest.approx(float((H @ expected + g).norm()), rel=1e-6)


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_quadratic_is_solved_by_one_newton_step(curvature: str) -> None:
    H = symmetric(0.5)
    objective = TorchObjective(lambda x: 0.5 * x @ H @ x - x.sum(), torch.full((P,), 9.0, dtype=torch.float64))
    solver = make_solver("newton-cg", curvature=curvature, forcing=1e-9)
    state, reason = run(solver, objective, solver.init(objective, objective.initial()))
    assert reason == "gradient"
    assert state.iterations == 1
    torch.testing.assert_close(state.w, torch.linalg.solve(H, torch.ones(P, dtype=torch.float64)), rtol=1e-6, atol=1e-6)


def test_rejected_trials_cost_no_product_and_no_linearisation() -> None:
    """The radius shrinks within one Krylov space, so that products belong to iterations, not to trials."""
    objective = PROBLEMS["wood"].objective()
    solver = make_solver("newton-cg")
    state, reason = run(solver, objective, solver.init(objective, objective.initial()))
    assert reason == "gradient"
    assert objective.linearisations == state.iterations
    assert objective.evaluations > state.iterations + 1, "wood is meant to have rejected trials"
    assert state.products == objective.products <= 4 * state.iterations


def test_negative_curvature_leads_away_from_a_saddle() -> None:
    """x⁴/4 - x²/2 + y²/2 from beside its saddle at 0: the minimum -1/4 at (±1, 0)."""
    objective = TorchObjective(
        lambda x: 0.25 * x[0] ** 4 - 0.5 * x[0] ** 2 + 0.5 * x[1] ** 2, torch.tensor([1e-9, 1.0], dtype=torch.float64)
    )
    solver = make_solver("newton-cg", gtol=1e-10)
    state, reason = run(solver, objective, solver.init(objective, objective.initial()))
    assert reason == "gradient"
    assert state.loss == pytest.approx(-0.25)


def test_products_per_iteration_are_bounded() -> None:
    objective = PROBLEMS["logistic-50"].objective()
    solver = make_solver("newton-cg", max_products=3, max_iterations=5)
    state, _ = run(solver, objective, solver.init(objective, objective.initial()))
    assert objective.products == state.products <= 15


@pytest.mark.parametrize("problem", ["logistic-50", "mlp-121"])
def test_at_the_floor_of_float32_the_trust_radius_stays_and_few_iterations_follow(problem: str) -> None:
    """A decrease that drowns in rounding is no evidence against the model: the radius fell to 1e-9 on it."""
    objective = PROBLEMS[problem].objective(torch.float32)
    solver = make_solver("newton-cg", gtol=1e-12, max_iterations=300)
    state = solver.init(objective, objective.initial())
    while solver.terminate(state) is None:
        state = solver.step(objective, state)
    assert solver.terminate(state) == "precision_floor"
    assert state.trust_radius > 1e-4
    assert state.stalled <= 3
