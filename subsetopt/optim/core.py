"""The solver behind `LBFGS`, and what its states at two moments have to do with each other."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from subsetopt.objective.host import host_read
from subsetopt.optim.settings import StepSettings
from subsetopt.solvers import lbfgs
from subsetopt.solvers.curvature_pairs import CurvaturePairs
from subsetopt.solvers.descent import DescentState, Line
from subsetopt.solvers.iterate import Iterate

UNDETECTABLE = 1e-3  # share of the rounding noise below which a predicted decrease tells a first trial nothing
State = DescentState[CurvaturePairs]


@dataclass(frozen=True, kw_only=True)
class ScaledLBFGS(lbfgs.LBFGS):
    """L-BFGS whose line searches begin at `lr` times the usual step, but not below what rounding lets through."""

    memory_name: ClassVar[str] = "history_size"
    lr: float = 1.0

    def propose(self, memory: CurvaturePairs, state: State) -> Line | None:
        """Return the line with its first step scaled."""
        line = super().propose(memory, state)
        if line is None:
            return None
        smallest = 2 * UNDETECTABLE * state.noise / -line.slope
        return dataclasses.replace(line, first_step=max(self.lr * line.first_step, min(smallest, line.first_step)))


def solver_of(settings: StepSettings) -> ScaledLBFGS:
    """Return the solver with these settings."""
    return ScaledLBFGS(
        lr=settings.lr,
        memory=settings.history_size,
        gtol=settings.tolerance_grad,
        strong_wolfe=settings.strong_wolfe,
    )


def same_function(before: Iterate, now: Iterate) -> bool:
    """True where loss and gradient of two evaluations at one w differ by rounding only."""
    if not abs(now.loss - before.loss) <= max(before.noise, now.noise):
        return False
    if torch.equal(now.gradient, before.gradient):
        return True
    (change,) = host_read((now.gradient - before.gradient).abs().amax().double().reshape(1))
    return change <= math.sqrt(torch.finfo(now.gradient.dtype).eps) * before.gradient_norm


def refitted(state: State, solver: ScaledLBFGS, w: Tensor) -> State:
    """Return `state` with as many pairs as `solver` keeps now."""
    wanted, rows = solver.memory, state.memory.rows
    if wanted is None or len(rows) == 2 * wanted + 2:
        return state
    solver.require_room(w)
    pairs = [(rows[2 * slot], rows[2 * slot + 1]) for slot in state.memory.order]
    memory = CurvaturePairs.of(pairs, wanted, w)
    memory.meet(state.gradient)
    memory.told = state.memory.told if memory.scales else []
    return dataclasses.replace(state, memory=memory)


def unchanged(before: Iterate, after: Iterate, tolerance: float) -> bool:
    """True where the step between two states changed the loss, or every parameter, by less than `tolerance`."""
    if tolerance <= 0 or after.iterations == before.iterations:
        return False
    if abs(after.loss - before.loss) < tolerance:
        return True
    (largest,) = host_read((after.w - before.w).abs().amax().double().reshape(1))
    return largest <= tolerance
