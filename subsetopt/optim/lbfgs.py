"""`LBFGS(params)` with `step(closure)`: `torch.optim.LBFGS` on the core that `minimize` runs on.

What differs: a line search is always made, a loss that is not finite is never accepted, tests of the line search are
relative to the rounding of the loss, and there is one synchronisation per evaluation and one per iteration.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from subsetopt.distributed import Ranks, initialised
from subsetopt.errors import SettingError, UserError
from subsetopt.optim.closure import Closure, ClosureObjective, usable
from subsetopt.optim.core import ScaledLBFGS, State, refitted, same_function, solver_of, unchanged
from subsetopt.optim.flat import FlatParameters
from subsetopt.optim.settings import LBFGSSettings, read_settings
from subsetopt.optim.torch_checkpoint import CURVATURE, solver_entry, torch_pairs
from subsetopt.solvers import lbfgs
from subsetopt.solvers.protocol import StopReason

_CONTRADICTION = (
    "subsetopt.optim.LBFGS: no step along the closure's gradient lowers its loss, parameters stay as they are; is the "
    "gradient scaled, or the loss random (dropout, new samples in every call)? Said once."
)


class LBFGS(Optimizer):
    """L-BFGS for users of `torch.optim.LBFGS`: the same arguments, the same `step(closure)`.

    `closure` clears the gradients, computes the loss, calls `backward()` and returns the loss. Within one step it must
    be the same function; from step to step it may change (mini-batches, new collocation points). Every step begins
    with a call at the current parameters, as torch's does: a loss or gradient that differs from the last one there
    beyond rounding means new data, and nothing of the old values is used. With `keep_curvature` (the default, as in
    torch) curvature pairs outlive new data and parameters changed by hand; `keep_curvature=False` drops them.
    `fixed_closure=True` promises that the closure never changes: steps then go on without that first call.

    `lr` is the first trial of each line search, in units of the quasi-Newton step: 1 is right almost always, and at 0
    a step only evaluates. A line search is always made: to the Wolfe conditions, or with
    `line_search_fn="strong_wolfe"` to the strong ones, which took more evaluations in our measurements. A step ends
    after `max_iter` iterations, after the iteration that reaches `max_eval` evaluations (None: 1.25 max_iter), at
    max|g| <= `tolerance_grad`, or when w or the loss changes by less than `tolerance_change`. That last test is
    absolute, so that it depends on the scale of the loss; it is off by default. `history_size=None` keeps as many
    pairs as are cheap to hold.

    `state_dict()["state"][0]` has `n_iter` and `func_evals` as torch's has, and a checkpoint of torch's loads with its
    curvature. Where torch.distributed is initialised, ranks decide by the mean of their losses over `process_group`
    ("default", or a group); None is for ranks that train models of their own.

    Parameters that do not require gradients are left alone; those without a gradient count as gradient zero. Raises
    `SettingError` (a `ValueError`) for several parameter groups, several devices, values out of range, and parameters
    or gradients that differ between ranks; `UserError` for a closure that gives no loss or no gradient, and under
    autocast or a `GradScaler`.
    """

    _step_supports_amp_scaling = True  # has GradScaler leave its mark on the optimizer, by which `step` can refuse it

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
        }
        self._solve: State | None = None
        self._solver: ScaledLBFGS | None = None
        self._saved: Mapping[str, Any] | None = None
        self._process_group, self._warned = process_group, False
        super().__init__(params, defaults)
        FlatParameters(self.param_groups[0]["params"])
        read_settings(self.param_groups[0])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take the one group there may be; raises `SettingError` for a second one."""
        if self.param_groups:
            raise SettingError(
                "params", "several groups", "one quasi-Newton matrix spans all parameters", "give one flat list"
            )
        super().add_param_group(param_group)

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the last step could go no further (gradient test, precision floor, ...); None while there is more to do.

        The next step finds out by its first evaluation whether this still holds.
        """
        return None if self._solve is None else solver_of(read_settings(self.param_groups[0])).terminate(self._solve)

    @property
    def gradient_norm(self) -> float:
        """max|g| at the current parameters, of the closure as the last step saw it; NaN before the first step."""
        return math.nan if self._solve is None else self._solve.gradient_norm

    def new_data(self) -> None:
        """Drop all curvature: the next step begins as the very first one did."""
        self._solve, self._saved = None, None

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """Make up to `max_iter` iterations; return what `closure` gave at the point where the step began.

        The parameters are those of the last accepted point, also after an exception in `closure`.
        """
        group = self.param_groups[0]
        settings = read_settings(group)
        flat = FlatParameters(group["params"])
        objective = ClosureObjective(flat, usable(closure, self, flat.device), self._ranks())
        counts = self.state[group["params"][0]]
        counts.setdefault("func_evals", 0)
        counts.setdefault("n_iter", 0)
        try:
            if flat.size == 0:  # nothing to train: torch evaluates, too
                objective.call()
                return objective.returned
            solver = solver_of(settings)
            self._solve = start = self._started(solver, objective, settings)
            self._solver, self._saved, first = solver, None, objective.returned
            try:
                self._iterate(solver, objective, settings, counts)
            finally:
                flat.write(self._solve.w)
        finally:
            counts["func_evals"] += objective.calls
        if first is None:
            return torch.as_tensor(start.loss).to(objective.returned)
        return first

    def state_dict(self) -> dict[str, Any]:
        """Return settings, counts and solver state: tensors and plain numbers, exact."""
        packed = super().state_dict()
        saved = self._saved
        if self._solve is not None:
            tensors, numbers = solver_of(read_settings(self.param_groups[0])).save(self._solve)
            saved = {"solver": {"tensors": tensors, "numbers": numbers}}
        if saved is not None:
            packed["state"] = {**packed["state"], 0: {**packed["state"].get(0, {}), **saved}}
        return packed

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict()` was taken: exactly, given the same parameters and closure.

        A checkpoint of `torch.optim.LBFGS` is continued with its settings, counts and curvature. Raises `UserError`
        for what is a checkpoint of neither.
        """
        entry = solver_entry(state_dict)
        kept = {key: copy.deepcopy(entry[key]) for key in ("solver", *CURVATURE) if key in entry}
        counts = {key: int(entry[key]) for key in ("func_evals", "n_iter") if key in entry}
        super().load_state_dict({**state_dict, "state": {0: counts} if entry else {}})
        self._solve, self._solver, self._saved = None, None, kept or None

    def __getstate__(self) -> dict[str, Any]:
        names = ("_solve", "_solver", "_saved", "_process_group", "_warned")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in names}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for name in ("keep_curvature", "fixed_closure"):  # a checkpoint of torch's has none
            self.param_groups[0].setdefault(name, self.defaults[name])

    def _ranks(self) -> Ranks:
        if self._process_group is None:
            return Ranks()
        ranks = initialised(None if self._process_group == "default" else self._process_group)
        ranks.resume_hint = "where ranks train separate models, give process_group=None"
        return ranks

    def _started(self, solver: ScaledLBFGS, objective: ClosureObjective, settings: LBFGSSettings) -> State:
        """Return the state at the current parameters: the last one where it still holds, else a new one."""
        w = objective.initial()
        previous = refitted(self._previous(solver, objective), solver, w)
        here = previous is not None and torch.equal(previous.w, w)
        promised = here and settings.fixed_closure and settings.lr > 0
        if previous is not None and promised and solver.terminate(previous) is None:
            return previous
        fresh = solver.init(objective, w)
        if previous is None:
            return fresh if self._saved is None else self._from_torch(self._saved, fresh, objective)
        if here and same_function(previous, fresh):
            # What failed with one first step, or another line search, may succeed with the next.
            retry = self._solver is not None and self._solver != solver
            return dataclasses.replace(previous, failure=None, stalled=0) if retry else previous
        if not (settings.keep_curvature or settings.fixed_closure):
            return fresh
        return solver.inherit(cast(lbfgs.LBFGSState, fresh), cast(lbfgs.LBFGSState, previous))

    def _previous(self, solver: ScaledLBFGS, objective: ClosureObjective) -> State | None:
        if self._saved is None or "solver" not in self._saved:
            return self._solve
        saved = self._saved["solver"]
        size = saved["tensors"]["w"].numel()
        if size != objective.size:
            raise UserError(
                f"state_dict: it was saved with {size} trainable numbers, here are {objective.size}; "
                "freeze the same parameters, or call new_data() to begin anew"
            )
        tensors = {name: tensor.to(objective.device, objective.dtype) for name, tensor in saved["tensors"].items()}
        return solver.restore(objective, tensors, saved["numbers"])

    def _from_torch(self, saved: Mapping[str, Any], fresh: State, objective: ClosureObjective) -> State:
        capacity = len(fresh.memory.rows) // 2 - 1
        parameters = self.param_groups[0]["params"]
        memory = torch_pairs(saved, parameters, objective.flat, capacity, fresh.gradient)
        return dataclasses.replace(fresh, memory=memory)

    def _iterate(
        self, solver: ScaledLBFGS, objective: ClosureObjective, settings: LBFGSSettings, counts: dict[str, Any]
    ) -> None:
        """Iterate from `self._solve`, and count as torch does: an attempt counts, a start at the minimum does not."""
        start = state = cast(State, self._solve)
        for attempt in range(settings.max_iter):
            reason = solver.terminate(state)
            if reason is None or (attempt == 0 and reason != StopReason.GRADIENT):
                counts["n_iter"] += 1
            if reason is not None or settings.lr == 0:
                break
            before = state
            self._solve = state = solver.step(objective, state)
            if objective.calls >= settings.max_eval or unchanged(before, state, settings.tolerance_change):
                break
        stuck = state.iterations == start.iterations and state.failure == StopReason.LINE_SEARCH
        if stuck and not self._warned:
            self._warned = True
            warnings.warn(_CONTRADICTION, stacklevel=4)
