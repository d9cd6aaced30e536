"""The rounding error of a loss, measured on the trials of a line search that it has misled.

Where a loss is the small difference of large numbers its error is far above eps |f|: the loss then seems to rise at
steps along which the slopes at both ends fall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from subsetopt.solvers.line_search import Trial

SPAN = 16.0  # ratio of the longest to the shortest step from which an error can be told to be constant
SAFETY = 2.0  # the noise is taken to be so much above the largest error seen
DIGITS = 0.4  # of the digits of the dtype: with fewer right a loss is contradicted by its gradient, not rounded


def trapezium_error(start: Trial, trial: Trial) -> float:
    """Return by how much the change in loss differs from the mean of both slopes times the step; O(step³)."""
    return trial.loss - start.loss - 0.5 * trial.step * (start.slope + trial.slope)


def secant_step(start: Trial, trial: Trial) -> float:
    """Return the step at which the slope is 0 by both slopes; twice the trial's where it has not risen."""
    rise = trial.slope - start.slope
    return -start.slope * trial.step / rise if rise > -0.5 * start.slope else 2 * trial.step


def measured_noise(errors: Sequence[tuple[float, float]], w: Tensor, scale: float) -> float:
    """Return the rounding error that `errors`, pairs (step, `trapezium_error`), speak of; 0 where they do not.

    Rounding leaves errors of one size at short and at long steps. A gradient that is not the loss's leaves errors
    in proportion to the step, and a smooth loss such as fall with its cube. `scale` is the size of the loss where the
    solve began: above eps^`DIGITS` of it nothing is called rounding.
    """
    ordered = sorted(pair for pair in errors if math.isfinite(pair[1]))
    if len(ordered) < 4 or ordered[-1][0] < SPAN * ordered[0][0]:
        return 0.0
    middle = math.sqrt(ordered[0][0] * ordered[-1][0])
    short = [abs(error) for step, error in ordered if step <= middle]
    per_step = [abs(error) / step for step, error in ordered if step <= middle]
    if len(short) < 2 or max(per_step) < 2 * min(per_step):
        return 0.0
    noise = SAFETY * max(short)
    return noise if noise <= torch.finfo(w.dtype).eps ** DIGITS * scale else 0.0
