"""Trust-region Newton: products with the Hessian or the Gauss-Newton matrix, a Krylov subproblem, a radius.

Follows Nocedal & Wright (2006, algorithms 4.1 and 7.2) with the subproblem of `krylov` and the quadratic of
`local_model`. The objective is linearised once per iterate; a rejected trial costs one evaluation, since a smaller
radius is served from the same Krylov space. With a preconditioner M the trust region is a ball in the norm of M, and
the damping within M falls by `damping_decay` where the model foretold the decrease well, and rises where it did not.

## What it does
Each step minimises a quadratic model within a radius, to a tolerance, and is taken where the objective falls enough.

## Settings
- `forcing` (0.5): tolerance of the inner solve at most; a comparison tunes it. `max_products` (none: 20 to 300).
- `curvature` ("hessian"): or "ggn", which is never negative. `sample_share` (1.0): share of the samples in products.
- `acceptance` (0.001), `growth` (2.0), `max_trials` (25): when a trial is taken, and how the radius grows.
- `preconditioner` ("none"): "kfac" or "diagonal", estimated on a `factor_share` (0.0625) of the samples every
  `factor_interval` (1) iterations, with `damping` (0.1) that falls by `damping_decay` (0.5); `seed` (0).

## True cost
An evaluation per trial, and a product, at about the price of an evaluation, per Krylov vector.

## Source
Nocedal and Wright 2006, algorithms 4.1 and 7.2; Gould et al. 1999, SIAM Journal on Optimization 9.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from subsetopt.facts import Knob, PlannedStrategy
from subsetopt.objective.protocol import SmoothObjective
from subsetopt.saving import UNSAVED, join, split
from subsetopt.settings import setting
from subsetopt.solvers import SOLVERS
from subsetopt.solvers.factors import Factors
from subsetopt.solvers.iterate import (
    CONTRADICTION,
    CRAWL,
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
from subsetopt.solvers.local_model import CurvatureSettings, LocalModel
from subsetopt.solvers.protocol import StopReason
from subsetopt.solvers.wrong_gradient import told_apart

BASIS_BYTES = 1 << 29  # 512 MiB
DROWNED = 10.0  # multiples of the noise below which a decrease in loss is not compared with what the model predicts
DAMPING_RANGE = 1e4  # how far the damping may go from where it began


@dataclass(kw_only=True)
class NewtonState(Iterate):
    """Iterate, trust radius and relative damping of M (0 before the first step) and ||g|| one iterate earlier."""

    trust_radius: float = 0.0
    damping: float = 0.0
    previous_l2: float = math.inf
    factors: Factors | None = field(default=None, metadata=UNSAVED)


@SOLVERS.register(
    "newton-cg",
    "trust-region Newton with Krylov subproblems on the Hessian or the GGN",
    knob=Knob("forcing", 0.5, "logit"),
    plan=(
        PlannedStrategy(
            "newton-cg", "full batch", "--solver none --handoff full --handoff-solver newton-cg", ("--handoff-epochs",)
        ),
    ),
)
@dataclass(frozen=True, kw_only=True)
class NewtonCG(CurvatureSettings, StopSettings):
    """Trust-region Newton-CG.

    `max_products` bounds the products of one iteration (None: what `BASIS_BYTES` hold, 20 to 300). A trial is accepted
    where the actual decrease is at least `acceptance` times the predicted one. `CurvatureSettings` says where products
    and the preconditioner come from.
    """

    name: ClassVar[str] = "newton-cg"
    max_products: int | None = setting(None, at_least=1)
    forcing: float = setting(0.5, above=0, below=1)
    acceptance: float = setting(1e-3, above=0, below=0.25)
    growth: float = setting(2.0, above=1)
    max_trials: int = setting(25, at_least=1)
    damping_decay: float = setting(0.5, above=0, at_most=1)

    def init(self, objective: SmoothObjective, w: Tensor) -> NewtonState:
        """Evaluate at a copy of w, shape (P,); raises `SettingError` for what the objective cannot give."""
        self.require(objective)
        return NewtonState(**start_fields(objective, w), factors=self.factors(objective), damping=self.damping)

    def inherit(self, state: NewtonState, previous: NewtonState) -> NewtonState:
        """Return `state`, freshly started, with the trust radius that `previous` has found on another objective."""
        return dataclasses.replace(state, trust_radius=previous.trust_radius)

    def step(self, objective: SmoothObjective, state: NewtonState) -> NewtonState:
        """Build the Krylov space at w, then shrink the radius until a trial is accepted."""
        if state.identity != objective.identity:
            fields = restart_fields(objective, state)
            state = NewtonState(**fields, factors=self.factors(objective), damping=self.damping)
        model = self.at(objective, state.w, state.iterations, state.factors, state.damping)
        space = self._krylov_space(model, state)
        state = dataclasses.replace(state, products=state.products + space.calls, factors=model.factors)
        if not len(space):
            return dataclasses.replace(state, failure=StopReason.NON_FINITE.value)
        noise, radius = state.noise, self._radius(state, space)
        evaluations, left = state.evaluations, self.evaluations_left(state)
        failure = StopReason.LINE_SEARCH if self.max_trials < left else None
        promised = 0.0
        for _ in range(min(self.max_trials, left)):
            step = space.solve(radius)
            if step.decrease <= noise and promised > CONTRADICTION * noise:
                failure = StopReason.LINE_SEARCH
                break
            first = evaluations == state.evaluations
            trial = self._trial(objective, state, space, step, first)
            evaluations += 1
            start = state.point(space.slope(step))
            if self._accepts(state, trial, step, noise):
                damping = self._next_damping(state, trial, step, first)
                radius = self._next_radius(start, trial, step, radius)
                changes = {"trust_radius": radius, "damping": damping, "previous_l2": state.gradient_l2}
                state = advance(state, trial, evaluations, CRAWL, **changes)
                return told_apart(objective, state, self.evaluations_left(state))
            promised = max(promised, promised_decrease(start, trial))
            if trial.finite and step.decrease <= noise:
                failure = StopReason.PRECISION_FLOOR
                break
            radius = step.length * _shrink(start, trial)
        state = dataclasses.replace(
            state, evaluations=evaluations, trust_radius=radius, failure=None if failure is None else failure.value
        )
        return told_apart(objective, state, self.evaluations_left(state))

    def _krylov_space(self, model: LocalModel, state: NewtonState) -> KrylovSpace:
        w = state.w
        bases = 1 if model.inverse is None else 2
        affordable = BASIS_BYTES // (w.numel() * w.element_size() * bases)
        capacity = min(self.max_products or min(300, max(20, affordable)), w.numel())
        space = KrylovSpace.of(state.gradient, state.gradient_l2, capacity, model.inverse)
        tolerance = self._tolerance(state) * space.start_norm
        radius = self._radius(state, space)
        while space.extend(model.product) and not space.complete:
            step = space.solve(radius)
            if step.multiplier > 0 or space.residual(step) <= tolerance:
                break
        return space

    def _radius(self, state: NewtonState, space: KrylovSpace) -> float:
        """Return the trust radius; at first ||w||, or the length that Newton's step has where M is the curvature."""
        return state.trust_radius or (state.start_length if space.inverse is None else space.start_norm)

    def _tolerance(self, state: NewtonState) -> float:
        """Return the relative residual to solve to: quadratic in the last gain, not below what the goal asks for.

        Source: Eisenstat & Walker (1996).
        """
        relative = min(self.forcing, (state.gradient_l2 / state.previous_l2) ** 2)
        goal = 0.3 * self.gtol / state.gradient_norm
        return max(relative, min(self.forcing, goal))

    def _trial(
        self, objective: SmoothObjective, state: NewtonState, space: KrylovSpace, step: TridiagonalStep, first: bool
    ) -> Trial:
        direction = space.vector(step)
        return evaluate(objective, state.w + direction, "train" if first else "line_search", 1.0, direction)

    def _accepts(self, state: NewtonState, trial: Trial, step: TridiagonalStep, noise: float) -> bool:
        """Compare actual and predicted decrease; where both drown in rounding, the gradient must shrink."""
        if not trial.finite:
            return False
        if step.decrease <= DROWNED * noise:
            return trial.loss <= state.loss + noise and trial.square_norm < state.gradient_l2**2
        return state.loss - trial.loss >= self.acceptance * step.decrease

    def _next_radius(self, start: Trial, trial: Trial, step: TridiagonalStep, radius: float) -> float:
        """Return the radius after an accepted step; a decrease that drowns in rounding says nothing of the model."""
        if step.decrease <= DROWNED * start.noise:
            return radius
        ratio = (start.loss - trial.loss) / step.decrease
        if ratio < 0.25:
            return step.length * _shrink(start, trial)
        return max(radius, self.growth * step.length) if ratio > 0.75 else radius

    def _next_damping(self, state: NewtonState, trial: Trial, step: TridiagonalStep, first: bool) -> float:
        """Return the damping of the next M, after Levenberg and Marquardt; a rejected trial counts as disagreement."""
        ratio = (state.loss - trial.loss) / step.decrease
        change = 1.0
        if not first or ratio < 0.25:
            change = 1 / self.damping_decay
        elif ratio > 0.75:
            change = self.damping_decay
        return min(max(state.damping * change, self.damping / DAMPING_RANGE), self.damping * DAMPING_RANGE)

    def save(self, state: NewtonState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Split the state; see `state.split`."""
        tensors, numbers = split(state)
        if state.factors is None:
            return tensors, numbers
        factor_tensors, factor_numbers = state.factors.save()
        return tensors | factor_tensors, numbers | factor_numbers

    def restore(
        self, objective: SmoothObjective, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
    ) -> NewtonState:
        """Rebuild the state for the objective that it was saved with."""
        self.require(objective)
        factors = self.restored(objective, tensors, numbers)
        return join(NewtonState, tensors, numbers, identity=objective.identity, factors=factors)


def _shrink(start: Trial, trial: Trial) -> float:
    """Return by how much to shorten the trial's step: to the minimiser of the cubic along it, within [0.1, 0.5]."""
    if not trial.finite:
        return 0.25
    target = cubic_minimiser(start, trial)
    return 0.25 if target is None else min(max(target, 0.1), 0.5)
