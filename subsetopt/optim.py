"""`torch.optim`'s face of the solvers: `LBFGS(params)` with `step(closure)`, on the core that `minimize` runs on.

What differs from `torch.optim.LBFGS`: progress costs nothing extra (a step goes on from where the last one stopped and
does not evaluate there again), a loss that is not finite is never accepted, tests are relative to the rounding of the
loss, and there is one synchronisation per evaluation and one per iteration.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from subsetopt.errors import SettingError, UserError, unknown_name
from subsetopt.objective.host import host_read
from subsetopt.objective.protocol import Linearisation, Purpose
from subsetopt.solvers import lbfgs
from subsetopt.solvers.curvature_pairs import CurvaturePairs
from subsetopt.solvers.descent import DescentState, Line
from subsetopt.solvers.protocol import StopReason
from subsetopt.solvers.settings import check_settings

Closure = Callable[[], Any]
_SEARCHES = (None, "strong_wolfe")


class LBFGS(Optimizer):
    """L-BFGS for users of `torch.optim.LBFGS`: the same arguments, the same `step(closure)`.

    `closure` clears the gradients, computes the loss, calls `backward()` and returns the loss. It must be the same
    function from step to step; say `new_data()` when it is not, or curvature of two functions would be mixed.

    `lr` is the first trial of each line search, in units of the quasi-Newton step: 1 is right almost always. A line
    search is always made: to the Wolfe conditions, or with `line_search_fn="strong_wolfe"` to the strong ones, which
    took more evaluations in our measurements. A step ends after `max_iter` iterations, after the iteration that reaches
    `max_eval` evaluations (None: 1.25 max_iter), at max|g| <= `tolerance_grad`, or when w or the loss changes by less
    than `tolerance_change`. That last test is absolute, so that it depends on the scale of the loss; it is off by
    default. `history_size=None` keeps as many pairs as are cheap to hold.

    Parameters that do not require gradients are left alone; those without a gradient count as gradient zero. Raises
    `SettingError` (a `ValueError`) for several parameter groups, complex parameters, several dtypes or devices, and
    values out of range; `UserError` for sparse gradients.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 0.0,
        history_size: int | None = 100,
        line_search_fn: str | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        self._state: DescentState[CurvaturePairs] | None = None
        self._saved: Mapping[str, Any] | None = None
        super().__init__(params, defaults)
        _check_parameters(self.param_groups[0]["params"])
        _check_settings(self.param_groups[0])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take the one group there may be; raises `SettingError` for a second one."""
        if self.param_groups:
            raise SettingError(
                "params", "several groups", "one quasi-Newton matrix spans all parameters", "give one flat list"
            )
        super().add_param_group(param_group)

    @property
    def stop_reason(self) -> StopReason | None:
        """Why no further step can be made (gradient test, precision floor, ...); None while there is more to do."""
        return None if self._state is None else _solver(self.param_groups[0]).terminate(self._state)

    @property
    def gradient_norm(self) -> float:
        """max|g| at the current parameters; NaN before the first step."""
        return math.nan if self._state is None else self._state.gradient_norm

    def new_data(self) -> None:
        """Say that the closure is another function from now on: curvature is dropped, the next step evaluates anew."""
        self._state, self._saved = None, None

    @torch.no_grad()
    def step(self, closure: Closure) -> Tensor:  # type: ignore[override]  # torch's base allows None
        """Make up to `max_iter` iterations; return the loss at the point where the step began, a 0-d tensor.

        Each evaluation calls `closure` once. A step that begins where the last one ended needs none for that point;
        parameters changed by hand in between are noticed, and cost one evaluation and the curvature. The parameters are
        those of the last accepted point, also after an exception in `closure`.
        """
        group = self.param_groups[0]
        solver = _solver(group)
        objective = _ClosureObjective(group["params"], torch.enable_grad()(closure))
        state = self._resumed(solver, objective)
        start = state.loss
        evaluations = state.evaluations
        limit = group["max_iter"] * 5 // 4 if group["max_eval"] is None else group["max_eval"]
        try:
            for _ in range(group["max_iter"]):
                if solver.terminate(state) is not None:
                    break
                before = state
                state = solver.step(objective, state)
                self._state = state
                if state.evaluations - evaluations >= limit or _unchanged(before, state, group["tolerance_change"]):
                    break
        finally:
            objective.write(state.w)
        return torch.as_tensor(start, dtype=objective.loss_dtype, device=objective.device)

    def state_dict(self) -> dict[str, Any]:
        """Return settings and solver state: tensors and plain numbers, exact."""
        saved = self._saved
        if self._state is not None:
            tensors, numbers = _solver(self.param_groups[0]).save(self._state)
            saved = {"tensors": tensors, "numbers": numbers}
        return {**super().state_dict(), "solver": saved}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict()` was taken, given the same parameters and the same closure."""
        if "solver" not in state_dict:
            raise UserError("state_dict: it has no solver state; give one that subsetopt.optim.LBFGS made")
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "solver"})
        self._state, self._saved = None, state_dict["solver"]

    def _resumed(self, solver: lbfgs.LBFGS, objective: _ClosureObjective) -> DescentState[CurvaturePairs]:
        """Return the state at the current parameters: the last one where it is still theirs, else a new one."""
        state = self._state
        w = objective.initial()
        if self._saved is not None:
            tensors = {name: tensor.to(objective.device) for name, tensor in self._saved["tensors"].items()}
            state = solver.restore(objective, tensors, self._saved["numbers"])
        if state is None or not torch.equal(state.w, w):
            try:
                state = solver.init(objective, w)
            except BaseException:
                objective.write(w)
                raise
        self._state, self._saved = state, None
        return state


@dataclass(frozen=True, kw_only=True)
class _ScaledLBFGS(lbfgs.LBFGS):
    """L-BFGS whose line searches begin at `lr` times the usual step."""

    lr: float = 1.0

    def propose(self, memory: CurvaturePairs, state: DescentState[CurvaturePairs]) -> Line | None:
        line = super().propose(memory, state)
        return None if line is None else dataclasses.replace(line, first_step=self.lr * line.first_step)


class _ClosureObjective:
    """A closure over parameters as a function of one flat vector, in the order and shape of `parameters`."""

    identity: Hashable = None  # `LBFGS.new_data` drops the state instead

    def __init__(self, parameters: Iterable[Tensor], closure: Closure) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        if not self._parameters:
            raise SettingError("params", "all frozen", "none of them requires a gradient", "unfreeze some")
        self._closure = closure
        self.loss_dtype = self.dtype

    @property
    def size(self) -> int:
        return sum(p.numel() for p in self._parameters)

    @property
    def dtype(self) -> torch.dtype:
        return self._parameters[0].dtype

    @property
    def device(self) -> torch.device:
        return self._parameters[0].device

    def initial(self) -> Tensor:
        return torch.cat([p.detach().reshape(-1) for p in self._parameters])

    def write(self, w: Tensor) -> None:
        """Copy w into the parameters."""
        sizes = [p.numel() for p in self._parameters]
        for p, part in zip(self._parameters, torch.split_with_sizes(w, sizes), strict=True):
            p.detach().copy_(part.view(p.shape))

    def value(self, w: Tensor, purpose: Purpose = "train") -> Tensor:
        return self.value_and_gradient(w, purpose)[0]

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        self.write(w)
        loss = torch.as_tensor(self._closure(), device=self.device).detach()
        self.loss_dtype = loss.dtype
        return loss.reshape(()).double(), torch.cat([_gradient(p) for p in self._parameters])

    def linearise(self, w: Tensor) -> Linearisation:
        raise UserError("closure: it gives no curvature products; use subsetopt.minimize for Newton-CG")


def _gradient(p: Tensor) -> Tensor:
    if p.grad is None:
        return p.detach().new_zeros(p.numel())
    if p.grad.layout != torch.strided:
        raise UserError("gradient: it is sparse; build the embedding with sparse=False")
    return p.grad.detach().reshape(-1)


def _solver(group: Mapping[str, Any]) -> _ScaledLBFGS:
    strong = group["line_search_fn"] == "strong_wolfe"
    settings = {"memory": group["history_size"], "gtol": group["tolerance_grad"], "strong_wolfe": strong}
    lr = float(group["lr"])  # schedulers may make it a tensor
    return _ScaledLBFGS(lr=lr, **check_settings(lbfgs.LBFGS, settings, "lbfgs"))


def _unchanged(before: DescentState[CurvaturePairs], after: DescentState[CurvaturePairs], tolerance: float) -> bool:
    if tolerance <= 0 or after.iterations == before.iterations:
        return False
    if abs(after.loss - before.loss) < tolerance:
        return True
    (largest,) = host_read((after.w - before.w).abs().amax().double().reshape(1))
    return largest <= tolerance


def _check_parameters(parameters: list[Tensor]) -> None:
    kinds = {(str(p.dtype), str(p.device)) for p in parameters}
    if len(kinds) > 1:
        raise SettingError("params", sorted(kinds), "several dtypes or devices", "convert them to one")
    if not parameters[0].is_floating_point():
        raise SettingError("params", str(parameters[0].dtype), "not real floating point", "use torch.view_as_real")


def _check_settings(group: Mapping[str, Any]) -> None:
    for name in ("lr", "max_iter", "max_eval"):
        value = group[name]
        if value is not None and not (math.isfinite(value) and value > 0):
            raise SettingError(name, value, "must be a finite number above 0")
    if not group["tolerance_change"] >= 0:
        raise SettingError("tolerance_change", group["tolerance_change"], "must be at least 0")
    if group["line_search_fn"] not in _SEARCHES:
        raise unknown_name("line_search_fn", str(group["line_search_fn"]), ["strong_wolfe"])
    check_settings(lbfgs.LBFGS, {"memory": group["history_size"], "gtol": group["tolerance_grad"]}, "lbfgs")
