"""Trust-region Newton: products with the Hessian or the Gauss-Newton matrix, a Krylov subproblem, a radius.

Follows Nocedal & Wright (2006, algorithms 4.1 and 7.2) with the subproblem of `krylov`. The objective is linearised
once per iterate; a rejected trial costs one evaluation, since a smaller radius is served from the same Krylov space.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from subsetopt.objective.protocol import SmoothObjective
from subsetopt.solvers import SOLVERS
from subsetopt.solvers.iterate import (
    CONTRADICTION,
    Iterate,
    StopSettings,
    advance,
    evaluate,
    promised_decrease,
    restart_fields,
    start_fields,
)
from subsetopt.solvers.krylov import KrylovSpace, TridiagonalStep
from subsetopt.solvers.line_search import Trial, cubic_minimiser
from subsetopt.solvers.protocol import StopReason
from subsetopt.solvers.settings import setting
from subsetopt.solvers.state import join, split

BASIS_BYTES = 1 << 29  # 512 MiB


@dataclass(kw_only=True)
class NewtonState(Iterate):
    """Iterate, trust radius (0 before the first step) and ||g|| one iterate earlier."""

    trust_radius: float = 0.0
    previous_l2: float = math.inf


@SOLVERS.register("newton-cg", "trust-region Newton with Krylov subproblems on the Hessian or the GGN")
@dataclass(frozen=True, kw_only=True)
class NewtonCG(StopSettings):
    """Trust-region Newton-CG.

    `max_products` bounds the products of one iteration (None: what `BASIS_BYTES` hold, 20 to 300). A trial is accepted
    where the actual decrease is at least `acceptance` times the predicted one.
    """

    name: ClassVar[str] = "newton-cg"
    curvature: Literal["hessian", "ggn"] = "hessian"
    max_products: int | None = setting(None, at_least=1)
    forcing: float = setting(0.5, above=0, below=1)
    acceptance: float = setting(1e-3, above=0, below=0.25)
    growth: float = setting(2.0, above=1)
    max_trials: int = setting(25, at_least=1)

    def init(self, objective: SmoothObjective, w: Tensor) -> NewtonState:
        """Evaluate at a copy of w, shape (P,)."""
        return NewtonState(**start_fields(objective, w))

    def inherit(self, state: NewtonState, previous: NewtonState) -> NewtonState:
        """Return `state`, freshly started, with the trust radius that `previous` has found on another objective."""
        return dataclasses.replace(state, trust_radius=previous.trust_radius)

    def step(self, objective: SmoothObjective, state: NewtonState) -> NewtonState:
        """Build the Krylov space at w, then shrink the radius until a trial is accepted."""
        if state.identity != objective.identity:
            state = NewtonState(**restart_fields(objective, state))
        radius = state.trust_radius or state.start_length
        space = self._krylov_space(objective, state, radius)
        state = dataclasses.replace(state, products=state.products + space.calls)
        if not len(space):
            return dataclasses.replace(state, failure=StopReason.NON_FINITE.value)
        noise = state.noise
        evaluations, left = state.evaluations, self.evaluations_left(state)
        failure = StopReason.LINE_SEARCH if self.max_trials < left else None
        promised = 0.0
        for _ in range(min(self.max_trials, left)):
            step = space.solve(radius)
            if step.decrease <= noise and promised > CONTRADICTION * noise:
                failure = StopReason.LINE_SEARCH
                break
            trial = self._trial(objective, state, space, step, first=evaluations == state.evaluations)
            evaluations += 1
            if self._accepts(state, trial, step, noise):
                radius = self._next_radius(state, trial, step, radius)
                return advance(state, trial, evaluations, trust_radius=radius, previous_l2=state.gradient_l2)
            promised = max(promised, promised_decrease(_start(state, step), trial))
            if trial.finite and step.decrease <= noise:
                failure = StopReason.PRECISION_FLOOR
                break
            radius = step.length * _shrink(state, trial, step)
        return dataclasses.replace(
            state, evaluations=evaluations, trust_radius=radius, failure=None if failure is None else failure.value
        )

    def _krylov_space(self, objective: SmoothObjective, state: NewtonState, radius: float) -> KrylovSpace:
        linearisation = objective.linearise(state.w)
        product = linearisation.hvp if self.curvature == "hessian" else linearisation.ggnvp
        w = state.w
        capacity = self.max_products or min(300, max(20, BASIS_BYTES // (w.numel() * w.element_size())))
        space = KrylovSpace.of(state.gradient, state.gradient_l2, min(capacity, w.numel()))
        tolerance = self._tolerance(state)
        while space.extend(product) and not space.complete:
            step = space.solve(radius)
            if step.multiplier > 0 or space.residual(step) <= tolerance:
                break
        return space

    def _tolerance(self, state: NewtonState) -> float:
        """Return the residual to solve to: quadratic in the last gain (Eisenstat & Walker 1996), not below the goal."""
        relative = min(self.forcing, (state.gradient_l2 / state.previous_l2) ** 2)
        goal = 0.3 * self.gtol / state.gradient_norm
        return max(relative, min(self.forcing, goal)) * state.gradient_l2

    def _trial(
        self, objective: SmoothObjective, state: NewtonState, space: KrylovSpace, step: TridiagonalStep, first: bool
    ) -> Trial:
        direction = space.vector(step)
        return evaluate(objective, state.w + direction, "train" if first else "line_search", 1.0, direction)

    def _accepts(self, state: NewtonState, trial: Trial, step: TridiagonalStep, noise: float) -> bool:
        """Compare actual and predicted decrease; where both drown in rounding, the gradient must shrink."""
        if not trial.finite:
            return False
        if step.decrease <= 10 * noise:
            return trial.loss <= state.loss + noise and trial.square_norm < state.gradient_l2**2
        return state.loss - trial.loss >= self.acceptance * step.decrease

    def _next_radius(self, state: NewtonState, trial: Trial, step: TridiagonalStep, radius: float) -> float:
        ratio = (state.loss - trial.loss) / step.decrease
        if ratio < 0.25:
            return step.length * _shrink(state, trial, step)
        return max(radius, self.growth * step.length) if ratio > 0.75 else radius

    def save(self, state: NewtonState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Split the state; see `state.split`."""
        return split(state)

    def restore(
        self, objective: SmoothObjective, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
    ) -> NewtonState:
        """Rebuild the state for the objective that it was saved with."""
        return join(NewtonState, tensors, numbers, identity=objective.identity)


def _start(state: NewtonState, step: TridiagonalStep) -> Trial:
    """Return w as the start of the line through the trial; g·p = ||g|| h_1."""
    return state.point(state.gradient_l2 * float(step.coefficients[0]))


def _shrink(state: NewtonState, trial: Trial, step: TridiagonalStep) -> float:
    """Return by how much to shorten the trial's step: to the minimiser of the cubic along it, within [0.1, 0.5]."""
    if not trial.finite:
        return 0.25
    target = cubic_minimiser(_start(state, step), trial)
    return 0.25 if target is None else min(max(target, 0.1), 0.5)
