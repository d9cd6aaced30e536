"""`LBFGS(params)` with `step(closure)`: `torch.optim.LBFGS` on the core that `minimize` runs on.

What differs: a line search is always made, a loss that is not finite is never accepted, tests of the line search are
relative to the rounding of the loss, and there is one synchronisation per evaluation and one per iteration.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from subsetopt.optim.base import ClosureOptimizer
from subsetopt.optim.closure import ClosureObjective
from subsetopt.optim.core import ScaledLBFGS, State, refitted, solver_of
from subsetopt.optim.settings import StepSettings, read_settings
from subsetopt.optim.torch_checkpoint import CURVATURE, torch_pairs

OVERFITTED = (
    10.0  # the loss on new data over that on the old, at the same parameters: old pairs are flat where new are not
)


class LBFGS(ClosureOptimizer):
    """L-BFGS for users of `torch.optim.LBFGS`: the same arguments, the same `step(closure)`.

    `closure` clears the gradients, computes the loss, calls `backward()` and returns the loss. Within one step it must
    be the same function; from step to step it may change (mini-batches, new collocation points). Every step begins
    with a call at the current parameters, as torch's does: a loss or gradient that differs from the last one there
    beyond rounding means new data, and nothing of the old values is used. With `keep_curvature` (the default, as in
    torch) curvature pairs outlive parameters changed by hand, and new data whose loss is at most ten times that of the
    old (beyond that the old ones were overfitted); `keep_curvature=False` drops them.
    `fixed_closure=True` promises that the closure never changes: steps then go on without that first call.

    `lr` is the first trial of each line search, in units of the quasi-Newton step: 1 is right almost always, and at 0
    a step only evaluates. A line search is always made: to the Wolfe conditions, or with
    `line_search_fn="strong_wolfe"` to the strong ones, which took more evaluations in our measurements. A step ends
    after `max_iter` iterations, after the iteration that reaches `max_eval` evaluations (None: 1.25 max_iter), at
    max|g| <= `tolerance_grad`, or when w or the loss changes by less than `tolerance_change`. That last test is
    absolute, so that it depends on the scale of the loss; it is off by default. `history_size=None` keeps as many
    pairs as are cheap to hold.

    `weight_decay` adds weight_decay / 2 ||w||^2 to the loss and `maximize` reverses its sign: `stop_reason` and
    `gradient_norm` are of the sum, while `step` returns what the closure gives. Exceptions of types in `infeasible`
    that the closure raises at a trial (`torch.linalg.LinAlgError` of a Cholesky factorisation) count as an infinite
    loss there, so that the line search shortens the step; at the point where a step begins they are raised, and on
    several ranks always.

    `state_dict()["state"][0]` has `n_iter` and `func_evals` as torch's has, and a checkpoint of torch's loads with its
    curvature. Where torch.distributed is initialised, ranks decide by the mean of their losses over `process_group`
    ("default", or a group); None is for ranks that train models of their own.

    Parameters that do not require gradients are left alone; those without a gradient count as gradient zero. Raises
    `SettingError` (a `ValueError`) for several parameter groups, several devices, values out of range, and parameters
    or gradients that differ between ranks; `UserError` for a closure that gives no loss or no gradient, and under
    autocast or a `GradScaler`.
    """

    _foreign = CURVATURE

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 0.0,
        history_size: int | None = 100,
        line_search_fn: str | None = None,
        *,
        keep_curvature: bool = True,
        fixed_closure: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        infeasible: type[Exception] | tuple[type[Exception], ...] = (),
        process_group: Any = "default",
    ) -> None:
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
            "keep_curvature": keep_curvature,
            "fixed_closure": fixed_closure,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults, process_group, infeasible)

    def _settings(self) -> StepSettings:
        return read_settings(self.param_groups[0])

    def _make_solver(self, settings: StepSettings) -> ScaledLBFGS:
        return solver_of(settings)

    def _fitted(self, state: State, solver: ScaledLBFGS, w: Tensor) -> State:
        return refitted(state, solver, w)

    def _carries_over(self, previous: State, fresh: State) -> bool:
        return not 0 <= OVERFITTED * previous.loss < fresh.loss

    def _begun(self, fresh: State, objective: ClosureObjective) -> State:
        capacity = len(fresh.memory.rows) // 2 - 1
        parameters = self.param_groups[0]["params"]
        memory = torch_pairs(self._saved or {}, parameters, objective.flat, capacity, fresh.gradient)
        memory.measured = 0  # the checkpoint's direction is that of its pairs as they are
        return dataclasses.replace(fresh, memory=memory)
