"""The faults that other minimisers show (project notes, "solver faults"), each provoked here for every solver."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from subsetopt.objective.protocol import Purpose
from subsetopt.seeding import make_generator
from subsetopt.solvers import SOLVERS, make_solver
from subsetopt.solvers.minimize import run, summarise
from tests.solvers.problems import PROBLEMS, TorchObjective, rosenbrock

OURS = ["lbfgs", "ncg", "newton-cg"]
ALL = [entry.name for entry in SOLVERS]


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class NanGradient(TorchObjective):
    """Beyond |x| = 1.5 the loss is a number and the gradient is not."""

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        loss, gradient = super().value_and_gradient(w, purpose)
        return loss, torch.where(w.abs().amax() > 1.5, math.nan, gradient)


class NanGradientAtLowerLoss(TorchObjective):
    """A hole in the gradient beyond the minimum, where the loss alone would be accepted."""

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        loss, gradient = super().value_and_gradient(w, purpose)
        return loss, torch.where(w.amin() < 9.9, math.nan, gradient)


def plateau(x: Tensor) -> Tensor:
    """+inf, with a finite gradient, beyond |x| = 1.5."""
    return torch.where(x.detach().abs().amax() > 1.5, math.inf, 0.0) + rosenbrock(x)


def square_root(x: Tensor) -> Tensor:
    """Not a number for x < 0; the minimum is at 1/4."""
    return (x - torch.sqrt(x)).sum()


def nan_beyond(x: Tensor) -> Tensor:
    return torch.where(x.detach().abs().amax() > 1.5, math.nan, 0.0) + rosenbrock(x)


BATTERY: dict[str, Callable[[], TorchObjective]] = {
    "nan-at-a-trial": lambda: TorchObjective(nan_beyond, vector(-1.2, 1.0)),
    "nan-gradient-only": lambda: NanGradient(rosenbrock, vector(-1.2, 1.0)),
    "nan-gradient-at-lower-loss": lambda: NanGradientAtLowerLoss(
        lambda x: torch.sqrt(1 + (x - 10) ** 2).sum(), vector(10.9)
    ),
    "inf-plateau": lambda: TorchObjective(plateau, vector(-1.2, 1.0)),
    "log-barrier": lambda: PROBLEMS["log-barrier-20"].objective(),
    "sqrt-domain": lambda: TorchObjective(square_root, vector(1e-4, 3.0)),
}


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("name", BATTERY)
def test_non_finite_trials_are_survived(method: str, name: str) -> None:
    """Faults 1 and 2: torch grows the step and accepts NaN; a NaN ratio never shrinks scipy's radius."""
    objective = BATTERY[name]()
    solver = make_solver(method, max_evaluations=2000, max_iterations=2000)
    start = solver.init(objective, objective.initial())
    state, reason = run(solver, objective, start)
    assert torch.isfinite(state.w).all()
    assert math.isfinite(state.loss)
    assert state.loss <= start.loss
    assert (state.gradient_norm <= 1e-6) == reason.converged
    if method in OURS or (method, name) == ("scipy:trust-ncg", "nan-gradient-at-lower-loss"):
        assert reason == "gradient"


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_start_is_said(method: str, bad: float) -> None:
    objective = TorchObjective(lambda x: x.sum() * bad, vector(1.0, 2.0))
    solver = make_solver(method)
    state, reason = run(solver, objective, solver.init(objective, objective.initial()))
    assert reason == "non_finite"
    assert not summarise(state, reason, state.w.shape).converged
    assert objective.evaluations == 1


@pytest.mark.parametrize("method", OURS)
@settings(max_examples=8, deadline=None)
@given(exponent=st.integers(-40, 40))
def test_scaling_by_a_power_of_two_leaves_the_path_unchanged_to_the_last_bit(method: str, exponent: int) -> None:
    """Fault 3: absolute thresholds."""
    scale = 2.0**exponent
    case = PROBLEMS["wood"]
    plain, scaled = case.objective(), case.objective(scale=scale)
    solver = make_solver(method, gtol=0.0)
    a, b = solver.init(plain, plain.initial()), solver.init(scaled, scaled.initial())
    for _ in range(40):
        a, b = solver.step(plain, a), solver.step(scaled, b)
        assert torch.equal(a.w, b.w)
    assert a.evaluations == b.evaluations
    assert b.loss == a.loss * scale


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize("scale", [1e-8, 1e8])
@pytest.mark.parametrize("name", ["rosenbrock-10", "powell-singular-40", "beale"])
def test_scaling_by_1e8_leaves_the_path_within_rounding(method: str, scale: float, name: str) -> None:
    """Fault 3, at the decimal scales; rounding may part the paths late, so the first eight iterates are compared."""
    plain, scaled = PROBLEMS[name].objective(), PROBLEMS[name].objective(scale=scale)
    a_solver, b_solver = make_solver(method), make_solver(method, gtol=1e-6 * scale)
    a, b = a_solver.init(plain, plain.initial()), b_solver.init(scaled, scaled.initial())
    for _ in range(8):
        if a_solver.terminate(a) is not None:
            break
        a, b = a_solver.step(plain, a), b_solver.step(scaled, b)
        torch.testing.assert_close(a.w, b.w, rtol=1e-6, atol=1e-6)
    assert a.evaluations == b.evaluations
    assert run(b_solver, scaled, b)[1] == "gradient"


@pytest.mark.parametrize("method", OURS)
def test_float32_scaled_by_1e_minus_4_still_learns_curvature(method: str) -> None:
    """Fault 3: optimistix stores no pair at all there."""
    objective = PROBLEMS["wood"].objective(torch.float32, scale=1e-4)
    solver = make_solver(method, gtol=1e-7)
    state, _ = run(solver, objective, solver.init(objective, objective.initial()))
    assert state.loss < 1e-8
    assert state.evaluations < 1500


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize("name", ["rosenbrock-100", "wood", "powell-singular-40", "trigonometric-10", "logistic-50"])
def test_float32_reaches_the_gradient_test_or_says_precision_floor(method: str, name: str) -> None:
    """Never `line_search`, never a claim that the gradient at the returned point does not support."""
    objective = PROBLEMS[name].objective(torch.float32)
    solver = make_solver(method, max_evaluations=6000)
    state, reason = run(solver, objective, solver.init(objective, objective.initial()))
    result = summarise(state, reason, state.w.shape)
    loss, gradient = objective.value_and_gradient(result.x)
    assert reason in ("gradient", "precision_floor")
    assert result.converged == (float(gradient.abs().max()) <= 1e-6)
    assert (result.loss, result.gradient_norm) == (float(loss), float(gradient.abs().max()))
    best = least_loss(name)
    assert result.loss <= best + 1e-5 * max(1.0, best)


@cache
def least_loss(name: str) -> float:
    """Return the loss in float64 that all methods are held to."""
    reference, solver = PROBLEMS[name].objective(), make_solver("newton-cg")
    best, _ = run(solver, reference, solver.init(reference, reference.initial()))
    return best.loss


@pytest.mark.parametrize("method", OURS)
def test_gradient_that_contradicts_the_loss_is_named(method: str) -> None:
    """Fault 4: no "converged" after a failed search; the start is returned with its own numbers."""

    class Ascent(TorchObjective):
        def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
            loss, gradient = super().value_and_gradient(w, purpose)
            return loss, -gradient

    objective = Ascent(lambda x: (x * x).sum() + 1, vector(1.0, 2.0))
    solver = make_solver(method)
    state, reason = run(solver, objective, solver.init(objective, objective.initial()))
    result = summarise(state, reason, state.w.shape)
    assert reason == "wrong_gradient"
    assert not result.converged
    assert torch.equal(result.x, vector(1.0, 2.0))
    assert (result.loss, result.gradient_norm) == (6.0, 4.0)


@pytest.mark.parametrize("method", OURS)
def test_precision_floor_is_said_where_gtol_is_out_of_reach(method: str) -> None:
    objective = PROBLEMS["trigonometric-10"].objective()
    solver = make_solver(method, gtol=0.0, max_evaluations=5000)
    state, reason = run(solver, objective, solver.init(objective, objective.initial()))
    assert reason == "precision_floor"
    assert state.gradient_norm < 1e-7


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize("fun", [lambda x: x.sum(), lambda x: -(x * x).sum(), lambda x: -torch.exp(x).sum()])
def test_unbounded_loss_is_said(method: str, fun: Callable[[Tensor], Tensor]) -> None:
    objective = TorchObjective(fun, vector(1.0, 2.0))
    solver = make_solver(method, max_evaluations=3000)
    state, reason = run(solver, objective, solver.init(objective, objective.initial()))
    assert reason == "unbounded"
    assert math.isfinite(state.loss)


@pytest.mark.parametrize("method", ALL)
def test_other_data_drop_the_curvature(method: str) -> None:
    """Fault 5: after a change of data the solve continues as a fresh one from the same point does."""
    first, second = PROBLEMS["rosenbrock-10"].objective(), PROBLEMS["trigonometric-10"].objective()
    second.identity = "another subset"
    solver = make_solver(method, max_iterations=None if method.startswith("scipy") else 100)
    state = solver.init(first, first.initial())
    for _ in range(8):
        state = solver.step(first, state)
        if method.startswith("scipy"):
            break
    w = state.w.clone()
    counts = state.evaluations
    fresh_objective = PROBLEMS["trigonometric-10"].objective()
    fresh = solver.step(fresh_objective, solver.init(fresh_objective, w))
    state = solver.step(second, state)
    assert torch.equal(state.w, fresh.w)
    assert (state.loss, state.best_loss) == (fresh.loss, fresh.best_loss)
    assert state.evaluations == counts + fresh.evaluations
    assert second.evaluations == fresh_objective.evaluations


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("limit", [1, 2, 7])
def test_evaluation_limit_holds_within_a_search(method: str, limit: int) -> None:
    """Fault 9: a single line search may not burn more than is left."""
    objective = PROBLEMS["powell-badly-scaled"].objective()
    solver = make_solver(method, max_evaluations=limit)
    state, reason = run(solver, objective, solver.init(objective, objective.initial()))
    assert reason == "max_evaluations"
    assert objective.evaluations == state.evaluations == limit


@pytest.mark.parametrize("method", OURS)
def test_loss_never_rises_beyond_rounding(method: str) -> None:
    """Its rounding error is 1e-9 to 1e-8 near the minimum, far above eps·|f|: its residuals are differences."""
    objective = PROBLEMS["trigonometric-10"].objective(torch.float32)
    solver = make_solver(method)
    state = solver.init(objective, objective.initial())
    lowest = state.loss
    while solver.terminate(state) is None:
        before = state.loss
        state = solver.step(objective, state)
        measured = getattr(state, "measured_noise", 0.0)
        assert measured <= 6e-8  # 3.9e-8 with gradients changed by two units in the last place
        assert state.loss <= before * (1 + 8 * torch.finfo(torch.float32).eps) + measured
        lowest = min(lowest, state.loss)
    assert state.best_loss <= lowest + 6e-8


@pytest.mark.parametrize(("method", "shift"), [("lbfgs", 3.0), ("ncg", 3.0), ("newton-cg", 0.0)])
def test_translation_and_rotation_of_w_change_nothing_beyond_rounding(method: str, shift: float) -> None:
    """x = Q (w - c) with a random orthogonal Q: the same losses, and iterates that are each other's images.

    Newton's first radius is ||w||, so that only a rotation leaves its path.
    """
    case = PROBLEMS["rosenbrock-10"]
    draw = make_generator(0, "rotation")
    Q, _ = torch.linalg.qr(torch.randn(10, 10, generator=draw, dtype=torch.float64))
    c = shift * torch.randn(10, generator=draw, dtype=torch.float64)
    plain, moved = case.objective(), TorchObjective(lambda w: case.fun(Q @ (w - c)), Q.T @ case.x0 + c)
    solver = make_solver(method)
    a, b = solver.init(plain, plain.initial()), solver.init(moved, moved.initial())
    for _ in range(12):
        a, b = solver.step(plain, a), solver.step(moved, b)
        torch.testing.assert_close(Q @ (b.w - c), a.w, rtol=1e-8, atol=1e-8)
        assert b.loss == pytest.approx(a.loss, rel=1e-8)
    assert a.evaluations == b.evaluations


@pytest.mark.parametrize("method", ["lbfgs", "ncg"])
def test_evaluation_limit_within_a_search_leaves_the_memory(method: str) -> None:
    """A solve stopped at any evaluation goes on, once more are allowed, with what it had learned."""
    objective = PROBLEMS["rosenbrock-10"].objective()
    state = make_solver(method).init(objective, objective.initial())
    cut_short = 0
    for allowed in [1, 30] * 25:  # evaluations: one search after another is cut short, then made
        before = state
        solver = make_solver(method, max_evaluations=state.evaluations + allowed)
        state = solver.step(objective, state)
        assert state.failure is None
        if state.iterations == before.iterations:
            cut_short += 1
            assert state.memory is before.memory
            assert torch.equal(state.w, before.w)
    assert cut_short >= 2
    assert state.iterations >= 25
