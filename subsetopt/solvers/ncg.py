"""Nonlinear conjugate gradients: d = -g' + beta d, restarted where that is not a descent direction.

With y = g' - g: PR+ max(0, g'·y / g·g); HS g'·y / d·y; DY g'·g' / d·y; FR g'·g' / g·g; and Hager & Zhang's
(y - 2 d y·y / d·y)·g' / d·y (2005, eq. 1.3), at least 0.4 d·g / d·d (2013, eq. 2.9), which no scaling of f disturbs.
All agree on a quadratic with an exact line search.

## What it does
Each step moves along the conjugate direction and meets the strong Wolfe conditions.

## Settings
- `beta` ("hager-zhang"): the rule above, or "pr+", "hs", "dy", "fr".
- `curvature` (0.1): tightness of the line search; a comparison tunes it, from 0.25. `decrease` (0.0001), `strong_wolfe`
  (true), `max_trials` (25).

## True cost
About two evaluations of loss and gradient per step; memory for one direction.

## Source
Hager and Zhang 2005, SIAM Journal on Optimization 16; 2013, SIAM Journal on Optimization 23; Nocedal
and Wright 2006, ch. 5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from subsetopt.facts import Knob
from subsetopt.objective.host import host_read
from subsetopt.settings import setting
from subsetopt.solvers import SOLVERS
from subsetopt.solvers.descent import DescentSolver, DescentState, Line
from subsetopt.solvers.inner_products import dot
from subsetopt.solvers.line_search import Trial

NEWTON_BOUND = 2.0  # the first step of a search is within this factor of Newton's for the last curvature
BetaRule = Literal["hager-zhang", "pr+", "hs", "dy", "fr"]


@dataclass(frozen=True)
class Products:
    """Inner products at an accepted step: g·g before (`gg`) and after (`gg_new`), g'·y, y·y, d·g', d·y and d·d."""

    gg: float
    gg_new: float
    gy: float
    yy: float
    dg: float
    dy: float
    dd: float


def beta(rule: BetaRule, p: Products) -> float:
    """Return the conjugacy coefficient; d·y is positive after a Wolfe line search."""
    if rule == "pr+":
        return max(0.0, p.gy / p.gg)
    if rule == "fr":
        return p.gg_new / p.gg
    if rule == "hs":
        return p.gy / p.dy
    if rule == "dy":
        return p.gg_new / p.dy
    lowest = 0.4 * (p.dg - p.dy) / p.dd
    return max((p.gy - 2 * p.yy * (p.dg / p.dy)) / p.dy, lowest)


@dataclass
class ConjugateDirection:
    """The last direction d, what the next one is made of, and the first-order change of the last step.

    `beta` is 0 before the first step; `slope` is g'·d at the new point, `change` is step times slope at the old one,
    `curvature` is d·y / step and `square` d·d of the last step (0 where not known).
    """

    direction: Tensor
    beta: float = 0.0
    slope: float = 0.0
    change: float = 0.0
    curvature: float = 0.0
    square: float = 0.0


@dataclass(kw_only=True)
class NCGState(DescentState[ConjugateDirection]):
    """Iterate and conjugate direction."""

    memory: ConjugateDirection


@SOLVERS.register(
    "ncg",
    "nonlinear conjugate gradients (Hager-Zhang, PR+, HS, DY, FR), Wolfe line search",
    knob=Knob("curvature", 0.25, "logit"),
)
@dataclass(frozen=True, kw_only=True)
class NCG(DescentSolver[ConjugateDirection]):
    """Nonlinear CG with the rule `beta`; `curvature` (c2) is tighter than a quasi-Newton method's, on both sides."""

    name: ClassVar[str] = "ncg"
    state_type: ClassVar[type[NCGState]] = NCGState
    beta: BetaRule = "hager-zhang"
    curvature: float = setting(0.1, above=0, below=1)
    strong_wolfe: bool = setting(True)

    def new_memory(self, w: Tensor) -> ConjugateDirection:
        """Return a memory without a direction."""
        return ConjugateDirection(torch.zeros_like(w))

    def propose(self, memory: ConjugateDirection, state: DescentState[ConjugateDirection]) -> Line | None:
        """Return the conjugate line; its first step promises the first-order change of the last one, within bounds.

        Where steps get shorter fast, that goes far too far: it is kept near Newton's step for the last curvature.
        """
        if memory.change == 0:
            return self.steepest(state)
        slope = -(state.gradient_l2**2) + memory.beta * memory.slope
        if not slope < 0:
            return None
        first_step = memory.change / slope
        square = state.gradient_l2**2 - 2 * memory.beta * memory.slope + memory.beta**2 * memory.square  # of the new d
        if memory.curvature > 0 and square > 0:
            newton = -slope / square / (memory.curvature / memory.square)
            first_step = min(max(first_step, newton / NEWTON_BOUND), newton * NEWTON_BOUND)
        direction = torch.sub(memory.beta * memory.direction, state.gradient)
        return Line(direction, slope, first_step)

    def learn(
        self, memory: ConjugateDirection, state: DescentState[ConjugateDirection], line: Line, trial: Trial
    ) -> tuple[ConjugateDirection, float]:
        """Form beta from the accepted step."""
        d, y = line.direction, trial.gradient - state.gradient
        gy, yy, dd = host_read(torch.stack([dot(trial.gradient, y), dot(y, y), dot(d, d)]))
        dy = trial.slope - line.slope
        p = Products(state.gradient_l2**2, trial.square_norm, gy, yy, trial.slope, dy, dd)
        factor = beta(self.beta, p) if dy > 0 else 0.0
        change, curvature = trial.step * line.slope, dy / trial.step
        return ConjugateDirection(d, factor, trial.slope, change, curvature, dd), trial.step * math.sqrt(dd)
