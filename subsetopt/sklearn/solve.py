"""The solve behind `fit`: a subset to its minimum, then all rows from there, with an optional held-out stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from subsetopt.objective.protocol import SmoothObjective
from subsetopt.solvers import SolveResult, StopReason, make_solver
from subsetopt.solvers.minimize import run, summarise
from subsetopt.training.loss_scale import loss_scale, relative_to


@dataclass
class Curvature:
    """A solver's saved state, whose curvature the next solve may start with (`warm_start`)."""

    solver: str
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    def fits(self, solver: str, w: Tensor) -> bool:
        """Whether a solve with `solver` from w can take it."""
        return self.solver == solver and self.tensors["w"].shape == w.shape and self.tensors["w"].dtype == w.dtype


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
        solver = make_solver(self.method, gtol=self.gtol, max_iterations=max(1, self.iterations - self.done))
        state = solver.init(objective, self.w)
        if self.guess is not None:  # a start that may be better costs one evaluation
            other = solver.init(objective, self.guess)
            state, self.w = (other, self.guess) if other.loss < state.loss else (state, self.w)
            state = replace(state, evaluations=2)
        if self.curvature is not None and self.curvature.fits(self.method, self.w) and hasattr(solver, "inherit"):
            previous = solver.restore(objective, self.curvature.tensors, self.curvature.numbers)
            state = solver.inherit(state, previous)
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
        if (self.keeps or not last) and hasattr(solver, "inherit"):
            self.curvature = Curvature(self.method, *solver.save(state))
        return result
