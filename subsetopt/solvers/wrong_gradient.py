"""Where a solve ends without a minimum: is the gradient that of the loss at all?

A backward pass of its own (straight-through, gradient reversal) or a detached part gives a gradient along which the
loss does not fall. No precision helps there, so it must not be taken for the rounding error of the loss. From w the
change of the loss along -g is the integral of its slopes: Simpson's rule on three of them is exact for polynomials of
the third degree. How large the rounding error is nobody knows where the loss is a small difference of large numbers;
so the loss must be seen to change with the step, too.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch

from subsetopt.objective.protocol import BudgetExhausted, SmoothObjective
from subsetopt.solvers.inner_products import precision
from subsetopt.solvers.iterate import Iterate, evaluate
from subsetopt.solvers.line_search import Trial
from subsetopt.solvers.noise import DIGITS
from subsetopt.solvers.protocol import StopReason

LONGER, LONGEST = 16.0, 8  # ratio and number of steps tried for one at which the loss changes
SHARE = 0.3  # of the slopes' own size: a smaller contradiction is left to rounding and kinks
RESOLVED = 4.0  # multiples of the difference between the rules of Simpson and of the trapezium
PROPORTIONAL = 2.0  # a gradient's error grows with the step, rounding does not, and Simpson's with its fifth power
PROMISED = 32.0  # multiples of the loss's rounding error, as far as it is known, that count
LEAST_JUMP = 1e-4  # of the loss's size: a smaller step in it may be rounding
SAME = 0.1  # relative difference of a jump seen from two distances
MEANT = 100.0  # multiples of the rounding error of the gradient below which its direction says nothing

_FAILURES = (StopReason.PRECISION_FLOOR, StopReason.LINE_SEARCH)
S = TypeVar("S", bound=Iterate)


class _EnoughError(Exception):
    """No more evaluations are allowed."""


class _Pair(NamedTuple):
    """The trials at w - t d and w + t d, d = -g / ||g||, around `start`."""

    start: Trial
    behind: Trial
    ahead: Trial

    @property
    def finite(self) -> bool:
        return self.behind.finite and self.ahead.finite

    @property
    def change(self) -> float:
        return self.ahead.loss - self.behind.loss

    @property
    def bend(self) -> float:
        return self.ahead.loss + self.behind.loss - 2 * self.start.loss

    @property
    def promise(self) -> float:
        return 2 * self.ahead.step * abs(self.start.slope)

    @property
    def rate(self) -> float:
        """By how much the loss contradicts its slopes, per unit of the step."""
        simpson = (self.behind.slope + 4 * self.start.slope + self.ahead.slope) / 6
        return abs(self.change / (2 * self.ahead.step) - simpson)

    @property
    def clear(self) -> bool:
        """Whether that is more than a kink explains, or the rule leaves out."""
        behind, at, ahead = self.behind.slope, self.start.slope, self.ahead.slope
        size = (abs(behind) + 4 * abs(at) + abs(ahead)) / 6
        left_out = abs((behind + 4 * at + ahead) / 6 - (behind + ahead) / 2)
        return self.finite and self.rate > max(SHARE * size, RESOLVED * left_out)


class _Line:
    """Trials along -g from a state that failed, within a number of evaluations."""

    def __init__(self, objective: SmoothObjective, state: Iterate, left: int) -> None:
        self._objective, self._state, self._left = objective, state, left
        self._direction = state.gradient.div(-state.gradient_l2)
        self.start = state.point(-state.gradient_l2)
        self.evaluations = 0

    def at(self, step: float) -> Trial:
        if self.evaluations >= self._left or not 0 < abs(step) < math.inf:
            raise _EnoughError
        w = self._state.w.add(self._direction, alpha=step)
        trial = evaluate(self._objective, w, "line_search", step, self._direction)
        self.evaluations += 1
        return trial

    def pair(self, step: float, ahead: Trial | None = None) -> _Pair:
        return _Pair(self.start, self.at(-step), ahead or self.at(step))


def told_apart(objective: SmoothObjective, state: S, evaluations_left: int) -> S:
    """Return `state` with `wrong_gradient` as its failure, where it failed and its gradient contradicts the loss.

    Two evaluations where it does not, none where the solve goes on, and none beyond `evaluations_left` or a budget.
    """
    if state.failure not in _FAILURES or not _stands_out(state):
        return state
    line = _Line(objective, state, evaluations_left)
    try:
        near = line.pair(0.5 * PROMISED * state.noise / state.gradient_l2)
        wrong = near.clear and (_jumps(line, state, near) or _contradicts(line, state, near))
    except (_EnoughError, BudgetExhausted):
        wrong = False
    failure = StopReason.WRONG_GRADIENT.value if wrong else state.failure
    return dataclasses.replace(state, evaluations=state.evaluations + line.evaluations, failure=failure)


def _stands_out(state: Iterate) -> bool:
    """Return whether the gradient stands out of its own rounding error: its direction means something."""
    floor = MEANT * precision(state.w.dtype) * state.initial_l2
    return math.isfinite(state.loss) and state.gradient_l2 > floor


def _jumps(line: _Line, state: Iterate, near: _Pair) -> bool:
    """Return whether the loss jumps at w, by more than rounding ever does: seen from two distances it is as large."""
    least = max(LEAST_JUMP, torch.finfo(state.w.dtype).eps ** DIGITS) * (abs(state.loss) + state.scale)
    if abs(near.change) < max(least, near.promise / SAME):
        return False
    farther = line.pair(4 * near.ahead.step)
    return farther.finite and abs(farther.change - near.change) < SAME * abs(near.change)


def _contradicts(line: _Line, state: Iterate, near: _Pair) -> bool:
    """Return whether loss and slopes contradict each other in proportion to the step, where the loss is seen to change.

    `near` are the nearest trials.
    """
    pairs, step = [near], near.ahead.step
    while pairs[-1].clear and not _seen(pairs[-1], state.noise) and len(pairs) < LONGEST:
        step *= LONGER
        pairs.append(line.pair(step))
    if not pairs[-1].clear or not _seen(pairs[-1], state.noise):
        return False
    last = [pairs[-1], *(line.pair(factor * step) for factor in (2, 4, 8))]
    rates = [pair.rate for pair in last]
    proportional = max(rates) <= PROPORTIONAL * min(rates)
    return all(pair.clear for pair in last) and proportional and _responds(last)


def _seen(pair: _Pair, noise: float) -> bool:
    return max(abs(pair.change), abs(pair.bend)) >= PROMISED * noise


def _responds(pairs: Sequence[_Pair]) -> bool:
    """Return whether the loss changes with the step, by its slope or by its curvature, and not as rounding does."""
    for changes, growth in (([pair.change for pair in pairs], 2.0), ([pair.bend for pair in pairs], 4.0)):
        if 0 not in changes and all(
            growth / 2 < later / earlier < 2 * growth for earlier, later in itertools.pairwise(changes)
        ):
            return True
    return False
