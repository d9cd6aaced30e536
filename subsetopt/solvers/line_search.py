"""Find a step that satisfies the Wolfe conditions, within a bracket, and stay sensible at rounding level.

Conditions: Wolfe or strong Wolfe (Nocedal & Wright 2006, eqs. 3.6, 3.7), or the approximate Wolfe conditions of Hager &
Zhang (2005, eq. 4.1) where the change in loss is of the order of its rounding error. phi(t) = f(w + t d).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from subsetopt.solvers.inner_products import precision

LOOSE = 0.9  # share of the first slope


class Trial(NamedTuple):
    """One point on the line, evaluated once. `slope` is g·d; `gradient_norm` is max|g|; `square_norm` is g·g.

    `noise` is the size of a change in loss that rounding may explain.
    """

    step: float
    loss: float
    slope: float
    gradient_norm: float
    square_norm: float
    noise: float
    w: Tensor
    gradient: Tensor

    @property
    def finite(self) -> bool:
        """False where the loss or any entry of the gradient is infinite or not a number."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm) and math.isfinite(self.slope)


class WolfeConditions(NamedTuple):
    """What a step must satisfy: `decrease` is c1, `curvature` is c2; `noise` is the rounding error of the loss.

    `strong` conditions reject a step far beyond the minimiser, too, where phi rises steeply again.
    """

    decrease: float
    curvature: float
    noise: float
    strong: bool = True

    def sufficient_decrease(self, start: Trial, trial: Trial) -> bool:
        """phi(t) <= phi(0) + c1 t phi'(0)."""
        return trial.loss <= start.loss + self.decrease * trial.step * start.slope

    def approximate_decrease(self, start: Trial, trial: Trial) -> bool:
        """The decrease condition of a quadratic in its slope, free of the cancellation in phi(t) - phi(0)."""
        at_rounding_level = abs(trial.loss - start.loss) <= self.noise
        return at_rounding_level and trial.slope <= (2 * self.decrease - 1) * start.slope

    def flattened(self, start: Trial, trial: Trial) -> bool:
        """phi'(t) >= c2 phi'(0), which makes s·y positive; if `strong`, |phi'(t)| <= c2 |phi'(0)|."""
        steepest = self.curvature * start.slope
        return trial.slope >= steepest and not (self.strong and trial.slope > -steepest)

    def hold(self, start: Trial, trial: Trial) -> bool:
        """True where `trial` may be accepted."""
        decreased = self.sufficient_decrease(start, trial) or self.approximate_decrease(start, trial)
        return trial.finite and decreased and self.flattened(start, trial)

    def hold_loosely(self, start: Trial, trial: Trial) -> bool:
        """True at the rounding level of the loss where the slope has shrunk at all: its own rounding hides the rest."""
        return trial.finite and self.approximate_decrease(start, trial) and abs(trial.slope) <= LOOSE * abs(start.slope)


@dataclass(frozen=True)
class LineSearch:
    """Bracketing and cubic interpolation; never more than `max_trials` trials, never one outside the bracket.

    After `exact_trials` at the rounding level of the loss a slope that has shrunk at all will do.
    """

    max_trials: int = 25
    exact_trials: int = 3
    shrink_non_finite: float = 0.1
    max_growth: float = 10.0

    def __call__(
        self,
        evaluate: Callable[[float], Trial],
        start: Trial,
        first_step: float,
        conditions: WolfeConditions,
        budget: int,
    ) -> tuple[Trial | None, bool]:
        """Return the accepted trial (None if no step decreases the loss) and whether it satisfies the conditions.

        `start` is phi at 0 with a negative slope. At most min(max_trials, budget) steps are evaluated. A trial that is
        not finite is an upper end of the bracket. When trials run out, the lowest one that decreases the loss serves.
        """
        low, high, previous_width = start, None, math.inf
        best: Trial | None = None
        step = first_step
        for count in range(min(self.max_trials, budget)):
            if -step * start.slope < precision(start.w.dtype) * conditions.noise:
                break
            trial = evaluate(step)
            if conditions.hold(start, trial) or (count >= self.exact_trials and conditions.hold_loosely(start, trial)):
                return trial, True
            if _better(trial, best, start, conditions):
                best = trial
            if self._is_upper_end(trial, low, start, conditions):
                high = trial
            else:
                if high is None:
                    step = self._extrapolate(low, trial)
                    low = trial
                    continue
                low = trial
            width = high.step - low.step
            step = self._interpolate(low, high, conditions.noise)
            if width > 0.66 * previous_width:
                step = low.step + 0.5 * width
            previous_width = width
            if not low.step < step < high.step:
                break
        return best, False

    @staticmethod
    def _is_upper_end(trial: Trial, low: Trial, start: Trial, conditions: WolfeConditions) -> bool:
        if not trial.finite or trial.slope >= 0:
            return True
        too_high = trial.loss > start.loss + conditions.decrease * trial.step * start.slope + conditions.noise
        return too_high or trial.loss > low.loss + conditions.noise

    def _extrapolate(self, low: Trial, trial: Trial) -> float:
        """Go beyond `trial` to the cubic's minimiser, by at least its distance from `low` and at most `max_growth`."""
        distance = trial.step - low.step
        target = cubic_minimiser(low, trial)
        if target is None or target <= trial.step:
            target = math.inf
        return trial.step + min(max(target - trial.step, distance), self.max_growth * distance)

    def _interpolate(self, low: Trial, high: Trial, noise: float) -> float:
        width = high.step - low.step
        if not high.finite:
            return low.step + self.shrink_non_finite * width
        if abs(high.loss - low.loss) <= noise and high.slope > 0:
            target: float | None = low.step - low.slope * width / (high.slope - low.slope)
        else:
            target = cubic_minimiser(low, high)
        if target is None:
            return low.step + 0.5 * width
        return min(max(target, low.step + 0.05 * width), high.step - 0.05 * width)


def cubic_minimiser(a: Trial, b: Trial) -> float | None:
    """Return the minimiser of the cubic through two points and slopes (Nocedal & Wright, eq. 3.59), or None."""
    width = b.step - a.step
    d1 = a.slope + b.slope - 3 * (b.loss - a.loss) / width
    largest = max(abs(a.slope), abs(b.slope), abs(d1))
    if not math.isfinite(largest):
        return None
    unit = math.frexp(largest)[1]  # a power of two, which rounds nothing: no square overflows, whatever the scale of f
    slope_a, slope_b, d1 = (math.ldexp(value, -unit) for value in (a.slope, b.slope, d1))
    discriminant = d1 * d1 - slope_a * slope_b
    if not discriminant >= 0:
        return None
    d2 = math.sqrt(discriminant)
    denominator = slope_b - slope_a + 2 * d2
    if denominator == 0:
        return None
    target = b.step - width * (slope_b + d2 - d1) / denominator
    return target if math.isfinite(target) else None


def _better(trial: Trial, best: Trial | None, start: Trial, conditions: WolfeConditions) -> bool:
    if not trial.finite or not conditions.sufficient_decrease(start, trial) or trial.loss >= start.loss:
        return False
    return best is None or trial.loss < best.loss
