"""The solvers that are compared, each as a function that minimises what a `Recorder` shows it.

The peers' own tests on the change of x or f are switched off where they can be, so that all stop at max|g| <= gtol.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsetopt.bench.recorder import EvaluationRecorder
from subsetopt.objective import FunctionObjective
from subsetopt.objective.lean.applied import applied
from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.solvers import make_solver
from subsetopt.solvers.minimize import run


@dataclass(frozen=True)
class Solved:
    """Where a contestant ended, after how many iterations, and why in its own words."""

    w: Tensor
    iterations: int
    reason: str


Contestant = Callable[[EvaluationRecorder, float, int], Solved]
"""(recorder, gtol, most iterations) -> Solved."""


def ours(name: str, **settings: Any) -> Contestant:
    """Return one of our solvers, or one of scipy's behind our protocol, by its registered name."""

    def solve(recorder: EvaluationRecorder, gtol: float, iterations: int) -> Solved:
        solver = make_solver(name, gtol=gtol, max_iterations=iterations, **settings)
        state, reason = run(solver, recorder, solver.init(recorder, recorder.initial()))
        return Solved(state.w if reason.converged else state.best_w, state.iterations, reason.value)

    return solve


def torch_lbfgs(history_size: int) -> Contestant:
    """Return `torch.optim.LBFGS` in one call of `step`, which is its best use."""

    def solve(recorder: EvaluationRecorder, gtol: float, iterations: int) -> Solved:
        w = recorder.initial().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [w],
            max_iter=iterations,
            max_eval=10**9,
            tolerance_grad=gtol,
            tolerance_change=0.0,
            history_size=history_size,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            loss, w.grad = recorder.value_and_gradient(w.detach())
            return loss

        reason = "stopped"
        try:
            optimizer.step(closure)
        except BudgetExhausted:
            reason = "budget"
        return Solved(w.detach(), int(optimizer.state[w].get("n_iter", 0)), reason)

    return solve


def torchmin(method: str, **options: Any) -> Contestant:
    """Return a method of pytorch-minimize, which wants a differentiable function instead of gradients.

    Its trust-ncg tests the Euclidean norm of the gradient, so it goes on a little longer than the others.
    """

    def solve(recorder: EvaluationRecorder, gtol: float, iterations: int) -> Solved:
        from torchmin import minimize

        if not isinstance(recorder.objective, FunctionObjective):
            raise TypeError("pytorch-minimize needs a plain function")
        plain = recorder.objective.fun

        def fun(x: Tensor) -> Tensor:
            recorder.spend()
            recorder.evaluations += 1
            return plain(applied(_CountProducts, x, recorder))

        try:
            result = minimize(
                fun, recorder.initial(), method=method, max_iter=iterations, options={"gtol": gtol, **options}
            )
        except BudgetExhausted:
            return Solved(recorder.initial(), 0, "budget")
        return Solved(result.x, int(result.nit), "stopped")

    return solve


class _CountProducts(torch.autograd.Function):
    """The identity; its gradient's gradient, which each Hessian product passes through once, counts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, recorder: EvaluationRecorder) -> Tensor:
        ctx.recorder = recorder
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return applied(_CountedGradient, gradient, ctx.recorder), None


class _CountedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, recorder: EvaluationRecorder) -> Tensor:
        ctx.recorder = recorder
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, product: Tensor) -> tuple[Tensor, None]:
        ctx.recorder.products += 1
        return product, None


OURS = ("lbfgs", "ncg", "newton-cg")
FIRST_ORDER_PEERS = ("scipy:L-BFGS-B", "torch:lbfgs", "torch:lbfgs-10")
"""What `lbfgs` is held against: the better of these on each problem."""


@functools.cache
def contestants() -> dict[str, Contestant]:
    """Return all contestants at hand; pytorch-minimize takes part where it is installed (extra `[bench]`)."""
    table = {name: ours(name) for name in OURS}
    table["lbfgs-10"] = ours("lbfgs", memory=10)
    table |= {f"scipy:{method}": ours(f"scipy:{method}") for method in ("L-BFGS-B", "CG", "Newton-CG", "trust-ncg")}
    table |= {"torch:lbfgs": torch_lbfgs(100), "torch:lbfgs-10": torch_lbfgs(10)}
    if importlib.util.find_spec("torchmin") is not None:
        table["torchmin:l-bfgs"] = torchmin("l-bfgs", xtol=0.0, gtd_tol=0.0)
        table["torchmin:cg"] = torchmin("cg")
        table["torchmin:trust-ncg"] = torchmin("trust-ncg")
    return table
