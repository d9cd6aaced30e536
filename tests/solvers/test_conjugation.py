"""Conjugate pairs: all secant equations of a quadratic, the newest one elsewhere, positive everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from subsetopt.objective import FunctionObjective
from subsetopt.seeding import make_generator
from subsetopt.solvers import make_solver
from subsetopt.solvers.conjugation import conjugate
from subsetopt.solvers.curvature_pairs import CurvaturePairs
from subsetopt.solvers.minimize import run
from tests.solvers.problems import PROBLEMS

SIZE = 12


def quadratic(condition: float, size: int = SIZE) -> Tensor:
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=make_generator(0, "basis"), dtype=torch.float64))
    return basis * torch.logspace(0, math.log10(condition), size, dtype=torch.float64) @ basis.T


def ring_of(S: Tensor, Y: Tensor, g: Tensor) -> CurvaturePairs:
    ring = CurvaturePairs.of(list(zip(S, Y, strict=True)), len(S), g)
    ring.meet(g)
    return ring


def steps(count: int) -> Tensor:
    return torch.randn(count, SIZE, generator=make_generator(1, "steps"), dtype=torch.float64)


@pytest.mark.parametrize("count", [2, 5, SIZE])
def test_all_secant_equations_of_a_quadratic_hold(count: int) -> None:
    S = steps(count)
    Y = S @ quadratic(1e2)
    for s, y in zip(S, Y, strict=True):
        product, square = ring_of(S, Y, y).apply(y, float(y @ y))
        torch.testing.assert_close(product, s, rtol=1e-8, atol=1e-8)
        assert square == pytest.approx(float(s @ y), rel=1e-8)


def test_where_no_quadratic_explains_the_pairs_the_newest_secant_equation_holds_and_the_product_is_positive() -> None:
    S = steps(6)
    other = torch.randn(6, SIZE, generator=make_generator(2, "other"), dtype=torch.float64)
    Y = S @ quadratic(1e2) + 5 * other
    Y = torch.where((S * Y).sum(1, keepdim=True) > 0, Y, -Y)
    product, _ = ring_of(S, Y, Y[-1]).apply(Y[-1], float(Y[-1] @ Y[-1]))
    torch.testing.assert_close(product, S[-1], rtol=1e-9, atol=1e-9)
    for g in other:
        product, square = ring_of(S, Y, g).apply(g, float(g @ g))
        assert square == pytest.approx(float(g @ product), rel=1e-9)
        assert square > 0


def test_combined_pairs_are_conjugate_and_a_contradicting_one_ends_them() -> None:
    S = steps(5).numpy()
    Y = S @ quadratic(1e2).numpy()
    Y[1] = S[1] @ quadratic(1e4).numpy()  # of another quadratic: the oldest two stay as they are
    pairs = conjugate(S @ Y.T)
    assert pairs.T.shape == (3, 3)
    table = pairs.T @ (S @ Y.T)[-3:, -3:] @ pairs.T.T
    np.testing.assert_allclose(table, np.diag(pairs.curvature), atol=1e-9 * pairs.curvature.max())
    np.testing.assert_array_equal(pairs.T, np.triu(pairs.T))


def test_quadratic_ends_soon_after_as_many_evaluations_as_it_has_dimensions() -> None:
    A, size = quadratic(1e3, 40), 40
    b = torch.randn(size, generator=make_generator(3, "b"), dtype=torch.float64)
    objective = FunctionObjective(lambda x: 0.5 * x @ (A @ x) - b @ x, torch.zeros(size, dtype=torch.float64))
    solver = make_solver("lbfgs", gtol=1e-7)
    state, reason = run(solver, objective, solver.init(objective, objective.initial()))
    assert reason == "gradient"
    assert state.evaluations <= 55  # 70 with the pairs as they are


def test_products_that_follow_from_the_direction_are_those_of_the_vectors() -> None:
    objective = PROBLEMS["rosenbrock-10"].objective()
    solver = make_solver("lbfgs", memory=6)
    state = solver.init(objective, objective.initial())
    for _ in range(15):
        state = solver.step(objective, state)
    memory = state.memory
    assert memory.measured == 6
    s = 2 * np.array(memory.order)
    rows = memory.rows.numpy()
    np.testing.assert_allclose(memory.gram[s][:, s + 1], rows[s] @ rows[s + 1].T, rtol=1e-6, atol=1e-12)


def test_a_checkpoint_of_a_version_without_these_products_resumes_with_the_pairs_as_they_are() -> None:
    objective = PROBLEMS["rosenbrock-10"].objective()
    solver = make_solver("lbfgs", memory=6)
    state = solver.init(objective, objective.initial())
    for _ in range(10):
        state = solver.step(objective, state)
    tensors, numbers = solver.save(state)
    del numbers["memory.measured"]
    restored = solver.restore(objective, tensors, numbers)
    assert restored.memory.measured == 0
    restored, reason = run(solver, objective, restored)
    assert reason == "gradient"
    assert restored.memory.measured == 6


def bfgs(S: Tensor, Y: Tensor, g: Tensor) -> Tensor:
    """Return H g by BFGS updates of H0 = max s·y / y·y, in their order."""
    eye = torch.eye(len(g), dtype=torch.float64)
    H = eye * ((S * Y).sum(1) / (Y * Y).sum(1)).max()
    for s, y in zip(S, Y, strict=True):
        V = eye - torch.outer(y, s) / (s @ y)
        H = V.T @ H @ V + torch.outer(s, s) / (s @ y)
    return H @ g


@pytest.mark.parametrize(("dimension", "combined"), [(2, True), (3, False), (40, False)])
def test_pairs_that_cannot_span_all_directions_have_to_agree_more_closely(dimension: int, combined: bool) -> None:
    """T_12 (s_1·y_2 - s_2·y_1) = 0.5 * 0.225 is 0.15 of the curvature left, 0.75: between the two bounds."""
    S, Y, g = (torch.zeros(shape, dtype=torch.float64) for shape in ((2, dimension), (2, dimension), (dimension,)))
    S[0, 0] = S[1, 1] = Y[0, 0] = Y[1, 1] = 1.0
    Y[1, 0], Y[0, 1] = 0.6125, 0.3875
    g[:2] = torch.tensor([1.0, 2.0])
    assert [len(conjugate((S @ Y.T).numpy(), bound).T) for bound in (0.2, 0.1)] == [2, 1]
    product, _ = ring_of(S, Y, g).apply(g, float(g @ g))
    assert torch.allclose(product, bfgs(S, Y, g), rtol=1e-12) != combined
