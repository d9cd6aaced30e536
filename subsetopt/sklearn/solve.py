"""The solve behind `fit`: a subset to its minimum, then all rows from there, with an optional held-out stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from subsetopt.objective.protocol import SmoothObjective
from subsetopt.sklearn.host_lbfgs import Carried, HostLBFGS
from subsetopt.solvers import SolveResult, StopReason, make_solver
from subsetopt.solvers.minimize import run, summarise
from subsetopt.training.loss_scale import loss_scale, relative_to


@dataclass
class HeldOut:
    """Keeps the parameters with the lowest held-out loss and says when `patience` iterations brought none lower."""

    loss: Callable[[Tensor], float]
    patience: int
    best: float = math.inf
    w: Tensor | None = None
    waited: int = 0
    losses: list[float] = field(default_factory=list)

    def stop(self, w: Tensor) -> bool:
        """Look at w; return whether to stop."""
        found = self.loss(w)
        self.losses.append(found)
        if found < self.best:
            self.best, self.w, self.waited = found, w.detach().clone(), 0
        else:
            self.waited += 1
        return self.waited >= self.patience


@dataclass
class Saved:
    """A solver's saved state, whose curvature the next solve may start with."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


@dataclass
class Curvature:
    """What a solve by `method` with the penalty `l2` has learnt about second derivatives at parameters like `like`."""

    method: str
    l2: float
    like: Tensor
    learnt: Carried | Saved

    def given_to(self, solver: Any, objective: SmoothObjective, state: Any, l2: float) -> Any:
        """Return `state`, freshly started, with this curvature, where `solver` can take it."""
        if (self.like.shape, self.like.dtype) != (state.w.shape, state.w.dtype):
            return state
        if isinstance(solver, HostLBFGS):
            return (
                solver.carry(state, self.learnt, max(0.0, l2 - self.l2)) if isinstance(self.learnt, Carried) else state
            )
        if isinstance(self.learnt, Saved) and solver.name == self.method and hasattr(solver, "inherit"):
            return solver.inherit(state, solver.restore(objective, self.learnt.tensors, self.learnt.numbers))
        return state


@dataclass
class Solve:
    """Stages on growing data from `w`; `iterations` in all are left. Results are those of the last stage."""

    method: str
    gtol: float
    iterations: int
    w: Tensor
    l2: float
    held_out: HeldOut | None = None
    curvature: Curvature | None = None
    guess: Tensor | None = None
    scale: float | None = None
    keeps: bool = False  # curvature at the end, for a later solve; between stages it is always carried
    losses: list[float] = field(default_factory=list)
    done: int = 0

    def stage(self, objective: SmoothObjective, last: bool) -> SolveResult:
        """Minimise `objective` from the last point to max|g| <= gtol S; S is measured at the first stage's start."""
        solver = self._solver()
        state = solver.init(objective, self.w)
        if self.guess is not None:  # a start that may be better costs one evaluation
            other = solver.init(objective, self.guess)
            state, self.w = (other, self.guess) if other.loss < state.loss else (state, self.w)
            state = replace(state, evaluations=2)
        if self.curvature is not None:
            state = self.curvature.given_to(solver, objective, state, self.l2)
        if self.scale is None:
            # Of the loss alone: another penalty, on a path of them, leaves the test as strict as it was.
            data_loss = state.loss - 0.5 * self.l2 * float(state.w.double().square().sum())
            self.scale = loss_scale(data_loss, float((state.gradient - self.l2 * state.w).abs().max()))
        solver = relative_to(solver, self.scale)
        self.losses = [state.loss]

        def watch(state: Any) -> bool:
            self.losses.append(state.loss)
            return self.held_out is not None and self.held_out.stop(state.w)

        state, reason = run(solver, objective, state, watch)
        if reason is StopReason.CALLBACK:
            reason = StopReason.VALIDATION
        result = summarise(state, reason, self.w.shape)
        if self.held_out is not None and self.held_out.w is not None:
            result = replace(result, x=self.held_out.w)
        self.done += result.iterations
        self.w = result.x
        if self.keeps or not last:
            self.curvature = self._learnt(solver, state)
        return result

    def data_loss(self, result: SolveResult) -> float:
        """Return the loss at the end of a stage without the penalty."""
        return result.loss - 0.5 * self.l2 * float(result.x.double().square().sum())

    def _solver(self) -> Any:
        left = max(1, self.iterations - self.done)
        if self.method == HostLBFGS.name and self.w.device.type == "cpu":
            return HostLBFGS(gtol=self.gtol, max_iterations=left)
        return make_solver(self.method, gtol=self.gtol, max_iterations=left)

    def _learnt(self, solver: Any, state: Any) -> Curvature | None:
        if isinstance(solver, HostLBFGS):
            return Curvature(self.method, self.l2, state.w, Carried.of(state))
        if not hasattr(solver, "inherit"):
            return None
        return Curvature(self.method, self.l2, state.w, Saved(*solver.save(state)))
