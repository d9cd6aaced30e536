"""`minimize` as scipy's users expect it, and settings that are checked before any work."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from subsetopt import Objective
from subsetopt.errors import SettingError, UserError
from subsetopt.seeding import make_generator
from subsetopt.solvers import SOLVERS, StopReason, make_solver, minimize
from subsetopt.solvers.minimize import summarise
from tests.solvers.problems import PROBLEMS, rosenbrock

ALL = [entry.name for entry in SOLVERS]


def bowl(x: Tensor) -> Tensor:
    return ((x - 3) ** 2).sum() + 1


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (2, 1, 2)])
def test_any_shape_is_minimised_and_returned(method: str, shape: tuple[int, ...]) -> None:
    x0 = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    result = minimize(bowl, x0, method=method)
    assert result.converged
    assert result.x.shape == shape
    assert not result.x.requires_grad
    assert torch.allclose(result.x, torch.full(shape, 3.0, dtype=torch.float64))
    assert torch.equal(x0, torch.zeros(shape, dtype=torch.float64))
    assert x0.grad is None
    assert result.counts["evaluations"] >= 2


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ALL)
def test_dtype_is_that_of_x0_whatever_the_default(method: str, dtype: torch.dtype, default: torch.dtype) -> None:
    """Fault 8: float32 under a float64 default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        result = minimize(bowl, torch.zeros(4, dtype=dtype), method=method)
    finally:
        torch.set_default_dtype(before)
    assert result.x.dtype == dtype
    assert result.converged


@pytest.mark.parametrize("method", ALL)
def test_result_belongs_to_the_returned_point(method: str) -> None:
    """Fault 4."""
    result = minimize(rosenbrock, torch.tensor([-1.2, 1.0], dtype=torch.float64), method=method, max_evaluations=9)
    x = result.x.clone().requires_grad_()
    loss = rosenbrock(x)
    (gradient,) = torch.autograd.grad(loss, x)
    assert result.loss == float(loss.detach())
    assert result.gradient_norm == float(gradient.abs().max())
    assert not result.converged
    assert result.stop_reason == "max_evaluations"
    assert result.counts["evaluations"] == 9


def test_channels_last_start_is_accepted() -> None:
    """Fault 8: gradients that are not contiguous."""
    x0 = torch.zeros(2, 3, 4, 5, dtype=torch.float64).to(memory_format=torch.channels_last)
    weights = torch.arange(120.0, dtype=torch.float64).reshape(2, 3, 4, 5)
    result = minimize(lambda x: ((x.permute(0, 2, 3, 1) - weights.permute(0, 2, 3, 1)) ** 2).sum(), x0)
    assert torch.allclose(result.x, weights)


@pytest.mark.parametrize("method", ["lbfgs", "ncg", "newton-cg"])
def test_callback_sees_every_iterate_and_may_stop(method: str) -> None:
    """Fault 7: a callback that stops the solve crashes; the initial point is overwritten in the trace."""
    seen: list[Any] = []

    def stop_at_three(state: Any) -> bool:
        seen.append((state.iterations, state.w))
        return state.iterations == 3

    x0 = PROBLEMS["rosenbrock-10"].x0
    result = minimize(rosenbrock, x0, method=method, callback=stop_at_three)
    assert result.stop_reason == "callback"
    assert not result.converged
    assert [iteration for iteration, _ in seen] == [1, 2, 3]
    assert not torch.equal(seen[0][1], seen[1][1])
    assert torch.equal(result.x, seen[-1][1])

    def raise_stop(state: Any) -> None:
        raise StopIteration

    assert minimize(rosenbrock, x0, method=method, callback=raise_stop).iterations == 1


def test_options_of_the_caller_are_not_changed() -> None:
    """Fault 7."""
    options = {"memory": 5.0, "gtol": 1}
    minimize(bowl, torch.zeros(2), **options)  # type: ignore[arg-type]  # a mixed dict, as users write it
    assert options == {"memory": 5.0, "gtol": 1}


def test_objective_is_taken_with_its_own_start() -> None:
    objective = PROBLEMS["wood"].objective()
    result = minimize(objective)
    assert result.converged
    assert result.counts["evaluations"] == objective.evaluations
    with pytest.raises(SettingError, match="the objective has 4 parameters"):
        minimize(objective, torch.zeros(3))


@pytest.mark.parametrize("method", ALL)
def test_start_at_the_minimum_costs_one_evaluation(method: str) -> None:
    result = minimize(bowl, torch.full((2,), 3.0, dtype=torch.float64), method=method)
    assert (result.iterations, result.counts["evaluations"], result.converged) == (0, 1, True)


def test_rtol_is_a_gradient_test_too() -> None:
    result = minimize(rosenbrock, PROBLEMS["rosenbrock-10"].x0, gtol=0.0, rtol=1e-3)
    assert result.converged
    assert result.gradient_norm > 1e-6


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("lbgfs", {}, "did you mean 'lbfgs'"),
        ("lbfgs", {"memroy": 5}, "solver 'lbfgs' has no such setting; did you mean 'memory'"),
        ("newton-cg", {"beta": "pr+"}, "acceptance, curvature"),
        ("lbfgs", {"memory": 0}, "at least 1"),
        ("lbfgs", {"memory": "ten"}, "is not a whole number"),
        ("lbfgs", {"memory": True}, "is not a whole number"),
        ("lbfgs", {"strong_wolfe": "maybe"}, "is not a switch; give true or false"),
        ("lbfgs", {"curvature": 1.5}, "below 1"),
        ("lbfgs", {"gtol": -1.0}, "at least 0"),
        ("lbfgs", {"gtol": float("nan")}, "at least 0"),
        ("ncg", {"beta": "polak"}, "hager-zhang"),
        ("newton-cg", {"curvature": "fisher"}, "ggn, hessian"),
        ("scipy:L-BFGS-B", {"method": "CG"}, "no such setting"),
        ("scipy:LBFGS-B", {}, "did you mean 'scipy:L-BFGS-B'"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=r".") as caught:
        make_solver(name, **settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_starts_are_refused() -> None:
    with pytest.raises(UserError):
        minimize(bowl)
    with pytest.raises(UserError):
        minimize(bowl, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(UserError):
        minimize(bowl, torch.zeros(0))


def test_every_solver_has_a_name_and_a_summary() -> None:
    assert {"lbfgs", "ncg", "newton-cg", "scipy:L-BFGS-B", "scipy:trust-ncg"} <= set(ALL)
    for entry in SOLVERS:
        assert entry.summary
        assert make_solver(entry.name).name == entry.name


@pytest.mark.parametrize("method", ALL)
def test_starting_point_stays_the_callers(method: str) -> None:
    objective = PROBLEMS["wood"].objective()
    solver = make_solver(method)
    w = objective.initial()
    state = solver.init(objective, w)
    w.zero_()
    assert torch.equal(state.w, objective.initial())


def test_best_point_is_returned_unless_the_gradient_test_chose_another() -> None:
    objective = PROBLEMS["wood"].objective()
    solver = make_solver("lbfgs")
    state = solver.init(objective, objective.initial())
    lower = dataclasses.replace(state, best_w=state.w + 1, best_loss=-1.0, best_gradient_norm=0.5)
    stopped = summarise(lower, StopReason.MAX_ITERATIONS, torch.Size([4]))
    assert torch.equal(stopped.x, lower.best_w)
    assert (stopped.loss, stopped.gradient_norm) == (-1.0, 0.5)
    assert torch.equal(summarise(lower, StopReason.GRADIENT, torch.Size([4])).x, state.w)


@pytest.mark.parametrize("exponent", [330, -330])
@pytest.mark.parametrize("method", ["lbfgs", "ncg", "newton-cg"])
def test_the_scale_of_the_loss_changes_no_iterate(method: str, exponent: int) -> None:
    """A power of two rounds nothing, so that f and 2^e f have the same iterates to the last bit."""

    def solve(scale: float) -> tuple[list[float], int]:
        def fun(x: Tensor) -> Tensor:
            return scale * ((x - 1) ** 2).sum() + scale * (x[0] ** 2 - x[1]) ** 2

        x0 = torch.tensor([0.8, -0.3, 1.7, 0.1, -1.2], dtype=torch.float64)
        result = minimize(fun, x0, method=method, gtol=1e-8 * scale)
        assert result.converged
        return result.x.tolist(), result.counts["evaluations"]

    assert solve(2.0**exponent) == solve(1.0)


@pytest.mark.parametrize("kink", [lambda x: x.abs().sum(), lambda x: x.abs().amax(), lambda x: (x - 3).abs().sum() + 7])
def test_newton_cg_ends_at_a_kink(kink: Any) -> None:
    """Steps that each lower the loss by about its rounding error never end: the precision floor is said."""
    start = torch.tensor([1.1, -0.4, 0.2], dtype=torch.float64)
    result = minimize(kink, start, method="newton-cg", max_evaluations=30_000)
    assert result.stop_reason is StopReason.PRECISION_FLOOR
    # A kink at 0 has a loss of 0, so that no loss is rounding: it falls as far as another machine's rounding lets it.
    assert result.counts["evaluations"] < 1000 or result.loss < 1e-40


def test_newton_cg_ends_beside_a_kink_that_it_has_not_reached() -> None:
    """Four entries are at 0 to rounding, the fifth gets there by one part in 1e14 an iteration: never."""
    x0 = torch.tensor([1.5409961, -0.2934289, -2.1787894, 0.5684313, -1.0845224], dtype=torch.float64)
    result = minimize(lambda x: x.abs().sum(), x0, method="newton-cg", max_evaluations=2000)
    assert result.stop_reason is StopReason.PRECISION_FLOOR


def test_a_result_has_the_names_of_scipy() -> None:
    result = minimize(bowl, torch.zeros(2, dtype=torch.float64))
    assert (result.fun, result.success, result.nit) == (result.loss, True, result.iterations)
    assert (result.nfev, result.message) == (result.counts["evaluations"], "gradient")
    assert minimize(bowl, torch.zeros(2), max_evaluations=1).message == "max evaluations"


@pytest.mark.parametrize(
    ("answer", "stops"),
    [
        (True, True),
        (np.float64(2.0) > 1, True),
        (torch.tensor(2.0) > 1, True),
        (1, False),
        (np.float64(2.0) < 1, False),
        (torch.ones(2) > 0, False),
    ],
)
def test_a_comparison_stops_a_solve_as_true_does(answer: Any, stops: bool) -> None:
    result = minimize(rosenbrock, torch.tensor([-1.2, 1.0], dtype=torch.float64), callback=lambda state: answer)
    assert (result.stop_reason is StopReason.CALLBACK) == stops


@pytest.mark.parametrize(("method", "share"), [("lbfgs", 0.9), ("ncg", 0.3)])
def test_slow_progress_beside_a_large_constant_is_no_floor(method: str, share: float) -> None:
    """In float32, iterations that gain a few rounding errors of the loss each: they were once said to be a floor."""
    draw = make_generator(0, "ill-conditioned")
    basis, _ = torch.linalg.qr(torch.randn(50, 50, generator=draw))
    matrix, b = basis * torch.logspace(0, 6, 50) @ basis.T, torch.randn(50, generator=draw)

    def fun(x: Tensor) -> Tensor:
        return 0.5 * x @ (matrix @ x) - b @ x + 1e4

    exact = float(-0.5 * b.double() @ torch.linalg.solve(matrix.double(), b.double()))
    result = minimize(fun, torch.zeros(50), method=method, max_evaluations=400)
    assert result.loss - 1e4 < share * exact < 0


def test_a_gradient_of_zero_has_no_sign() -> None:
    result = minimize(lambda x: (x**2).sum(), torch.zeros(3, dtype=torch.float64))
    assert str(result.gradient_norm) == "0.0"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_start_that_is_not_finite_is_refused_by_name(bad: float) -> None:
    x0 = torch.tensor([1.0, bad, 2.0])
    said = rf"^x0 = {bad}: 1 of 3 elements are not finite, first number 1; start at finite numbers"
    for method in ("lbfgs", "ncg", "newton-cg"):
        with pytest.raises(SettingError, match=said):
            minimize(lambda x: (x**2).sum(), x0, method=method)
    objective = Objective(torch.nn.Linear(2, 1), torch.ones(4, 2), torch.ones(4, 1), loss="mse")
    with pytest.raises(SettingError, match=said):
        minimize(objective, x0)


def test_a_function_without_a_value_at_a_finite_start_is_said_in_the_result() -> None:
    assert minimize(lambda x: x.log().sum(), -torch.ones(2)).stop_reason == "non_finite"
