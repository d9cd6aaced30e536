"""Solves beyond the floor of the loss, against closed-form minima, and the measure of rounding that they rest on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from subsetopt import minimize
from subsetopt.bench.recorder import EvaluationRecorder
from subsetopt.objective import FunctionObjective
from subsetopt.seeding import make_generator
from subsetopt.solvers import make_solver
from subsetopt.solvers.iterate import gradient_rounding
from subsetopt.solvers.line_search import Trial
from subsetopt.solvers.minimize import run
from subsetopt.solvers.noise import measured_noise, secant_step, trapezium_error

W = torch.zeros(1, dtype=torch.float64)
EPS32 = torch.finfo(torch.float32).eps


def quadratic(condition: float, size: int = 30, offset: float | None = 0) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A rotated quadratic with eigenvalues from 1 to `condition` and its minimiser; None: its minimum is 0."""
    draw = make_generator(3, f"quadratic/{size}")
    rotation, _ = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))
    values = torch.logspace(0, torch.tensor(condition).log10().item(), size, dtype=torch.float64)
    hessian = rotation @ torch.diag(values) @ rotation.T
    hessian = 0.5 * (hessian + hessian.T)
    minimiser = torch.randn(size, generator=draw, dtype=torch.float64)
    b = hessian @ minimiser
    constant = 0.5 * float(b @ minimiser) if offset is None else offset

    def fun(x: Tensor) -> Tensor:
        return 0.5 * x @ (hessian.to(x.dtype) @ x) - b.to(x.dtype) @ x + constant

    return fun, minimiser


@pytest.mark.parametrize("offset", [0.0, None, -1e6], ids=["plain", "minimum 0", "far below 0"])
@pytest.mark.parametrize(
    ("method", "settings", "condition"),
    [("lbfgs", {}, 1e4), ("lbfgs", {}, 1e6), ("lbfgs", {"memory": 10}, 1e4), ("ncg", {}, 1e3)],
)
def test_gradient_falls_on_where_the_loss_no_longer_does(
    method: str, settings: dict[str, Any], condition: float, offset: float | None
) -> None:
    fun, minimiser = quadratic(condition, offset=offset)
    start = torch.zeros_like(minimiser)
    result = minimize(fun, start, method=method, gtol=2e-9, max_evaluations=3000, **settings)
    assert result.stop_reason == "gradient"
    torch.testing.assert_close(result.x, minimiser, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", ["lbfgs", "ncg"])
def test_float32_ends_at_the_rounding_of_the_gradient(method: str) -> None:
    fun, minimiser = quadratic(1e3)
    result = minimize(fun, torch.zeros_like(minimiser).float(), method=method, gtol=0, max_evaluations=5000)
    rounding = torch.finfo(torch.float32).eps * float(fun_gradient(fun, minimiser).norm())
    assert result.stop_reason == "precision_floor"
    assert result.gradient_norm <= 10 * rounding


def test_ncg_ends_soon_after_its_gradient_is_rounding() -> None:
    """At size 150 it took three times the evaluations to eps ||H|| ||w*||, for a tenth of the norm now and then."""
    condition = 3e3
    fun, minimiser = quadratic(condition, size=150)
    objective = FunctionObjective(fun, torch.zeros_like(minimiser).float())
    solver = make_solver("ncg", gtol=0, max_evaluations=4000)
    state, reached = solver.init(objective, objective.initial()), 0
    while solver.terminate(state) is None:
        state = solver.step(objective, state)
        if not reached and state.gradient_l2 <= EPS32 * condition * float(minimiser.norm()):
            reached = state.evaluations
    assert solver.terminate(state) == "precision_floor"
    assert reached < state.evaluations < 2 * reached
    assert state.best_gradient_norm <= EPS32 * condition * float(minimiser.norm())


@pytest.mark.parametrize("unit", [1.0, 2.0**330])
def test_rounding_of_a_gradient_is_that_of_the_last_curvature(unit: float) -> None:
    """Along an eigenvector of eigenvalue 40 from (3, 4), in any unit of the loss."""
    w = torch.tensor([3.0, 4.0], dtype=torch.float64)
    beside = w + torch.tensor([0.0, 0.5], dtype=torch.float64)
    slopes = torch.tensor([1.0, 40.0], dtype=torch.float64) * unit
    start, end = (trial(0.0, 0.0, 0.0)._replace(w=x, gradient=slopes * x) for x in (beside, w))
    assert gradient_rounding(start, end) == pytest.approx(torch.finfo(torch.float64).eps * 40 * 5 * unit)
    assert gradient_rounding(end, end) == 0


def fun_gradient(fun: Callable[[Tensor], Tensor], minimiser: Tensor) -> Tensor:
    """Return the gradient at 0, which sets the size of the numbers whose difference a gradient is."""
    return torch.func.grad(fun)(torch.zeros_like(minimiser))


@pytest.mark.parametrize("memory", [10, None])
def test_noise_that_is_measured_is_that_of_the_loss(memory: int | None) -> None:
    """A sine of tiny period, of amplitude 1e-10 of the loss, stands for its rounding error: 5e5 times eps·|f|."""
    plain, minimiser = quadratic(1e4)

    def fun(x: Tensor) -> Tensor:
        return plain(x) * (1 + 1e-10 * torch.sin(1e9 * x.detach().sum()))

    objective = FunctionObjective(fun, torch.zeros_like(minimiser))
    solver = make_solver("lbfgs", memory=memory, gtol=2e-9, max_evaluations=3000)
    state, reason = run(solver, objective, solver.init(objective, objective.initial()))
    amplitude = 1e-10 * abs(float(plain(minimiser)))
    assert reason == "gradient"
    torch.testing.assert_close(state.w, minimiser, rtol=0, atol=1e-8)
    assert 0.5 * amplitude < state.measured_noise < 10 * amplitude


def test_the_floor_takes_few_evaluations_once_the_gradient_is_rounding() -> None:
    fun, minimiser = quadratic(1e4)
    recorder = EvaluationRecorder(FunctionObjective(fun, torch.zeros_like(minimiser)), 3000)
    solver = make_solver("lbfgs", gtol=2e-9)
    run(solver, recorder, solver.init(recorder, recorder.initial()))
    reached = recorder.evaluations
    recorder.evaluations, endless = 0, make_solver("lbfgs", gtol=0)
    _, reason = run(endless, recorder, endless.init(recorder, recorder.initial()))
    assert reason == "precision_floor"
    assert recorder.evaluations <= reached + 200  # 40 to 111 more, by the rounding of the machine; 3000 without a floor


def trial(step: float, loss: float, slope: float) -> Trial:
    return Trial(step, loss, slope, abs(slope), slope * slope, 0.0, W, W)


def test_trapezium_error_of_a_quadratic_is_its_noise() -> None:
    start = trial(0.0, 5.0, -2.0)
    assert trapezium_error(start, trial(0.5, 5.0 - 1.0 + 0.25 + 0.125, -1.0)) == pytest.approx(0.125)


STEPS = [2.0**-k for k in range(12)]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (lambda t: 1e-9 * (1 if int(1 / t) % 3 else -1), 2e-9),
        (lambda t: 1e-9 * t, 0.0),  # a wrong slope
        (lambda t: 1e-2 * (1 if int(1 / t) % 3 else -1), 0.0),  # a loss that is not the gradient's
    ],
    ids=["rounding", "wrong slope", "random loss"],
)
def test_only_errors_of_constant_size_are_rounding(error: Callable[[float], float], expected: float) -> None:
    assert measured_noise([(t, error(t)) for t in STEPS], W, 1.0) == pytest.approx(expected)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_a_smooth_loss_has_no_noise(power: int) -> None:
    assert measured_noise([(t, 1e-6 * t**power) for t in STEPS], W, 1.0) == 0.0


def test_a_plateau_between_two_slopes_is_found() -> None:
    """Noise that is smooth at very short steps, and hidden by the loss's own curvature at long ones."""
    errors = [(t, min(1e-3 * t, 1e-9) + 1e-7 * t**3) for t in (10.0**-k for k in range(12))]
    assert 2e-9 <= measured_noise(errors, W, 1.0) <= 4e-9


@pytest.mark.parametrize("errors", [[], [(1.0, 1e-9)] * 3, [(1.0, 1e-9), (0.9, -1e-9), (0.8, 1e-9), (0.07, 3e-9)]])
def test_too_few_or_too_close_steps_say_nothing(errors: list[tuple[float, float]]) -> None:
    assert measured_noise(errors, W, 1.0) == 0.0


@pytest.mark.parametrize("slope", [-1.0, 0.5, 2.0])
def test_secant_step_is_the_minimiser_of_a_quadratic(slope: float) -> None:
    expected = 3.0 * 2 / (slope + 2) if slope > -1 else 6.0
    assert secant_step(trial(0.0, 0.0, -2.0), trial(3.0, 0.0, slope)) == pytest.approx(expected)
