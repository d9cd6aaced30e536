"""`minimize(fun, x0)`: the solvers for a plain torch function, in the manner of `scipy.optimize.minimize`."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from subsetopt.arguments import is_true, kind_of
from subsetopt.errors import SettingError
from subsetopt.objective.protocol import BudgetExhausted, SmoothObjective
from subsetopt.solvers.catalog import make_solver
from subsetopt.solvers.infeasible import feasible
from subsetopt.solvers.protocol import Solver, SolveResult, State, StopReason

Function = Callable[[Tensor], Tensor]
Callback = Callable[[State], Any]


def minimize(
    fun: Function | SmoothObjective,
    x0: Tensor | None = None,
    method: str = "lbfgs",
    gtol: float = 1e-6,
    max_iterations: int | None = None,
    max_evaluations: int | None = None,
    callback: Callback | None = None,
    infeasible: tuple[type[Exception], ...] = (),
    **options: Any,
) -> SolveResult:
    """Minimise `fun` from `x0` and return the best point found with its loss and gradient norm.

    `fun` is a differentiable torch function of one tensor in the shape of `x0`, or an objective; then `x0` may be left
    out. `options` are the settings of `method`. `callback(state)` is called after every iteration; the solve stops with
    `callback` when it returns True or raises StopIteration. A point at which `fun` raises one of the exceptions
    `infeasible`, e.g. `(torch.linalg.LinAlgError,)`, is one at which it is infinite. Never raises for a difficult
    function: `stop_reason` says what happened. Raises `SettingError` for a wrong method, setting or starting point.
    """
    limits = {"gtol": gtol, "max_iterations": max_iterations, "max_evaluations": max_evaluations}
    solver = make_solver(method, **limits, **options)
    _check_kinds(fun, callback)
    objective, start = _problem(fun, x0)
    objective = feasible(objective, infeasible)
    state, reason = run(solver, objective, solver.init(objective, start), callback)
    return summarise(state, reason, start.shape if x0 is None else x0.shape)


def run(
    solver: Solver, objective: SmoothObjective, state: Any, callback: Callback | None = None
) -> tuple[Any, StopReason]:
    """Step until the solver, the callback or the budget says stop; return the last state and the reason."""
    while (reason := solver.terminate(state)) is None:
        try:
            state = solver.step(objective, state)
        except BudgetExhausted:
            return state, StopReason.BUDGET
        if callback is not None and _asks_to_stop(callback, state):
            return state, solver.terminate(state) or StopReason.CALLBACK
    return state, reason


def summarise(state: State, reason: StopReason, shape: torch.Size) -> SolveResult:
    """Return the current point where the gradient test chose it, otherwise the best one seen."""
    best = not reason.converged
    return SolveResult(
        x=(state.best_w if best else state.w).detach().clone().reshape(shape),
        loss=state.best_loss if best else state.loss,
        gradient_norm=state.best_gradient_norm if best else state.gradient_norm,
        converged=reason.converged,
        stop_reason=reason,
        iterations=state.iterations,
        counts={"evaluations": state.evaluations, "products": state.products},
    )


def _check_kinds(fun: object, callback: object) -> None:
    if isinstance(fun, torch.nn.Module):
        raise SettingError("fun", type(fun), "is a model, not a loss", "give Objective(model, inputs, targets)")
    if isinstance(fun, type) or not (callable(fun) or hasattr(fun, "value_and_gradient")):
        raise SettingError("fun", fun, f"is {kind_of(fun)}", "give a torch function of one tensor, or an Objective")
    if callback is not None and not callable(callback):
        raise SettingError("callback", callback, f"is {kind_of(callback)}", "give a function of the solver's state")


def _problem(fun: Function | SmoothObjective, x0: Tensor | None) -> tuple[SmoothObjective, Tensor]:
    if isinstance(fun, types.FunctionType) or not hasattr(fun, "value_and_gradient"):
        if x0 is None:
            raise SettingError("x0", x0, "a plain function needs a starting point", "e.g. torch.zeros(10)")
        from subsetopt.objective import FunctionObjective

        function = FunctionObjective(cast(Function, fun), x0)
        _require_finite(x0)
        return function, function.initial()
    objective = cast(SmoothObjective, fun)
    if x0 is not None and not isinstance(x0, Tensor):
        raise SettingError("x0", x0, f"is {kind_of(x0)}, not a tensor", "give the parameters, or leave it out")
    start = objective.initial() if x0 is None else x0.detach().reshape(-1)
    if start.numel() != objective.size:
        raise SettingError("x0", tuple(start.shape), f"the objective has {objective.size} parameters")
    if x0 is not None:
        _require_finite(x0)
    return objective, start


def _require_finite(x0: Tensor) -> None:
    """Raise `SettingError` for a start that has NaN or infinity: no function can be lowered from there."""
    bad = (~torch.isfinite(x0.detach())).reshape(-1).nonzero()
    if len(bad):
        value, place = float(x0.detach().reshape(-1)[bad[0]]), int(bad[0])
        problem = f"{len(bad)} of {x0.numel()} elements are not finite, first number {place}"
        raise SettingError("x0", value, problem, "start at finite numbers, e.g. torch.zeros_like(x0)")


def _asks_to_stop(callback: Callback, state: State) -> bool:
    try:
        return is_true(callback(state))
    except StopIteration:
        return True
