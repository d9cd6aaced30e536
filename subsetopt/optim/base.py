"""What optimizers with `step(closure)` share: the state from step to step, checkpoints, counts, ranks."""

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
from subsetopt.optim.core import same_function, unchanged
from subsetopt.optim.flat import FlatParameters
from subsetopt.optim.settings import StepSettings, read_exceptions
from subsetopt.optim.torch_checkpoint import solver_entry
from subsetopt.solvers.iterate import Iterate
from subsetopt.solvers.protocol import StopReason

_CONTRADICTION = (
    "subsetopt.optim: no step along the closure's gradient lowers its loss, parameters stay as they are; is the "
    "gradient scaled, or the loss random (dropout, new samples in every call)? Said once."
)


class ClosureOptimizer(Optimizer):
    """A solver of `subsetopt.solvers` as a torch optimizer; a subclass gives the settings and the solver.

    All state is that of one parameter group; counts are in the state of its first parameter, as torch's LBFGS has them.
    """

    _step_supports_amp_scaling = True  # has GradScaler leave its mark on the optimizer, by which `step` can refuse it
    _foreign: tuple[str, ...] = ()  # entries of another optimizer's checkpoint that the subclass can make use of

    def __init__(
        self, params: Iterable[Any], defaults: dict[str, Any], process_group: Any, infeasible: Any = ()
    ) -> None:
        self._infeasible = read_exceptions(infeasible)
        self._solve: Any = None
        self._solver: Any = None
        self._saved: Mapping[str, Any] | None = None
        self._process_group, self._warned, self._idle = process_group, False, False
        super().__init__(params, defaults)
        FlatParameters(self.param_groups[0]["params"])
        self._settings()

    def _settings(self) -> StepSettings:
        """Return what the parameter group says; raises `SettingError`."""
        raise NotImplementedError

    def _make_solver(self, settings: StepSettings) -> Any:
        """Return the solver with these settings."""
        raise NotImplementedError

    def _fitted(self, state: Any, solver: Any, w: Tensor) -> Any:
        """Return `state`, of an earlier step, as `solver` can use it for parameters like w."""
        return state

    def _carries_over(self, previous: Any, fresh: Any) -> bool:
        """Return whether curvature from `previous` is worth keeping for the new data of `fresh`, at the same w."""
        return True

    def _begun(self, fresh: Any, objective: ClosureObjective) -> Any:
        """Return `fresh`, the state of a first step, with what a foreign checkpoint knows."""
        return fresh

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take the one group there may be; raises `SettingError` for a second one."""
        if self.param_groups:
            raise SettingError(
                "params", "several groups", "one curvature matrix spans all parameters", "give one flat list"
            )
        super().add_param_group(param_group)

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the last step could go no further (gradient test, precision floor, ...); None while there is more to do.

        The next step finds out by its first evaluation whether this still holds.
        """
        if self._solve is None:
            return None
        reason: StopReason | None = self._make_solver(self._settings()).terminate(self._solve)
        return reason

    @property
    def gradient_norm(self) -> float:
        """max|g| at the current parameters, of the closure as the last step saw it; NaN before the first step."""
        return math.nan if self._solve is None else float(self._solve.gradient_norm)

    def new_data(self) -> None:
        """Drop all curvature: the next step begins as the very first one did."""
        self._solve, self._saved = None, None

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """Make up to `max_iter` iterations; return what `closure` gave at the point where the step began.

        The parameters are those of the last accepted point, also after an exception in `closure`.
        """
        group = self.param_groups[0]
        settings = self._settings()
        flat = FlatParameters(group["params"])
        terms = dataclasses.replace(settings.terms, infeasible=self._infeasible)
        objective = ClosureObjective(flat, usable(closure, self, flat.device), self._ranks(), terms)
        counts = self.state[group["params"][0]]
        counts.setdefault("func_evals", 0)
        counts.setdefault("n_iter", 0)
        try:
            if flat.size == 0:  # nothing to train: torch evaluates, too
                objective.call()
                return objective.returned
            solver = self._make_solver(settings)
            self._solve = start = self._started(solver, objective, settings)
            self._solver, self._saved, first = solver, None, objective.returned
            try:
                self._iterate(solver, objective, settings, counts)
            finally:
                flat.write(self._solve.w)
        finally:
            counts["func_evals"] += objective.calls
        if first is None:
            return torch.as_tensor(start.loss, device=start.gradient.device).to(objective.returned)
        return first

    def state_dict(self) -> dict[str, Any]:
        """Return settings, counts and solver state: tensors and plain numbers, exact."""
        packed = super().state_dict()
        saved = self._saved
        if self._solve is not None:
            solver = self._make_solver(self._settings())
            tensors, numbers = solver.save(self._solve)
            saved = {"solver": {"name": solver.name, "tensors": tensors, "numbers": numbers}}
        if saved is not None:
            packed["state"] = {**packed["state"], 0: {**packed["state"].get(0, {}), **saved}}
        return packed

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict()` was taken: exactly, given the same parameters and closure.

        `LBFGS` continues a checkpoint of `torch.optim.LBFGS` with its settings, counts and curvature, too. Raises
        `UserError` for another optimizer's.
        """
        name = self._make_solver(self._settings()).name
        entry = solver_entry(state_dict, name)
        kept = {key: copy.deepcopy(entry[key]) for key in ("solver", *self._foreign) if key in entry}
        counts = {key: int(entry[key]) for key in ("func_evals", "n_iter") if key in entry}
        super().load_state_dict({**state_dict, "state": {0: counts} if entry else {}})
        self._solve, self._solver, self._saved = None, None, kept or None

    def __getstate__(self) -> dict[str, Any]:
        names = ("_solve", "_solver", "_saved", "_process_group", "_warned", "_infeasible", "_idle")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in names}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for name, value in self.defaults.items():  # a checkpoint of torch's, or of an earlier version, lacks some
            if name != "differentiable":  # torch's own mark
                self.param_groups[0].setdefault(name, value)

    def _ranks(self) -> Ranks:
        if self._process_group is None:
            return Ranks()
        ranks = initialised(None if self._process_group == "default" else self._process_group)
        ranks.resume_hint = "where ranks train separate models, give process_group=None"
        return ranks

    def _started(self, solver: Any, objective: ClosureObjective, settings: StepSettings) -> Any:
        """Return the state at the current parameters: the last one where it still holds, else a new one."""
        w = objective.initial()
        previous = self._previous(solver, objective)
        if previous is not None and not _alike(previous.w, w):
            previous = None
        elif previous is not None:
            previous = self._fitted(previous, solver, w)
        here = previous is not None and torch.equal(previous.w, w)
        promised = here and settings.fixed_closure and settings.lr > 0
        if previous is not None and promised and solver.terminate(previous) is None:
            return previous
        fresh = solver.init(objective, w)
        if previous is None:
            return fresh if self._saved is None else self._begun(fresh, objective)
        if here and same_function(previous, fresh):
            # What failed with one first step, or another line search, may succeed with the next.
            retry = self._solver is not None and self._solver != solver
            return dataclasses.replace(previous, failure=None, stalled=0) if retry else previous
        if not (settings.keep_curvature or settings.fixed_closure) or (
            here and not self._carries_over(previous, fresh)
        ):
            return fresh
        return solver.inherit(fresh, previous)

    def _previous(self, solver: Any, objective: ClosureObjective) -> Any:
        if self._saved is None or "solver" not in self._saved:
            return self._solve
        saved = self._saved["solver"]
        size = saved["tensors"]["w"].numel()
        if size != objective.size:
            raise UserError(
                f"state_dict: it was saved with {size} trainable numbers, here are {objective.size}; "
                "freeze the same parameters, or call new_data() to begin anew"
            )
        tensors = {
            # Arrays of float64 are saved as the integers that their bits are: no parameters, and not to be converted.
            name: tensor.to(objective.device, objective.dtype) if tensor.is_floating_point() else tensor
            for name, tensor in saved["tensors"].items()
        }
        return solver.restore(objective, tensors, saved["numbers"])

    def _iterate(
        self, solver: Any, objective: ClosureObjective, settings: StepSettings, counts: dict[str, Any]
    ) -> None:
        """Iterate from `self._solve`, and count as torch does: an attempt counts, a start at the minimum does not.

        From the second step in a row that starts there it does: DeepXDE ends when a step counts one, and never else.
        """
        start = state = cast(Iterate, self._solve)
        for attempt in range(settings.max_iter):
            reason = solver.terminate(state)
            idle = attempt == 0 and reason == StopReason.GRADIENT
            if reason is None or (attempt == 0 and (not idle or self._idle)):
                counts["n_iter"] += 1
            self._idle = idle
            if reason is not None or settings.lr == 0:
                break
            before = state
            self._solve = state = solver.step(objective, state)
            if objective.calls >= settings.max_eval or unchanged(before, state, settings.tolerance_change):
                break
        if solver.terminate(start) == StopReason.NON_FINITE and not bool(torch.isfinite(start.w).all()):
            problem = "they have NaN or infinity before the step, so that no step can be found"
            raise SettingError("params", "not finite", problem, "load or draw finite ones")
        stuck = state.iterations == start.iterations and state.failure in (
            StopReason.LINE_SEARCH,
            StopReason.WRONG_GRADIENT,
        )
        if stuck and not self._warned:
            self._warned = True
            warnings.warn(_CONTRADICTION, stacklevel=4)


def _alike(a: Tensor, b: Tensor) -> bool:
    """False where parameters were frozen or unfrozen since, or the model has another dtype or device."""
    return (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
