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

SPAN = 16.0  # ratio of a longer to a shorter step from which an error can be told to be constant
FEWEST = 2  # errors that must be found constant: a single one may be a change of sign
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

    Rounding leaves errors of one size at short and at long steps: one counts as rounding where a step `SPAN` times as
    long or longer has an error that has grown by less than the root of the ratio of the steps. A gradient that is not
    the loss's leaves errors in proportion to the step, and those of a smooth loss fall with its cube. `scale` is the
    size of the loss where the solve began: above eps^`DIGITS` of it nothing is called rounding.
    """
    if len(errors) < FEWEST:
        return 0.0
    finite = [(step, abs(error)) for step, error in errors if math.isfinite(error)]
    constant = [
        error
        for step, error in finite
        if any(longer >= SPAN * step and other < error * math.sqrt(longer / step) for longer, other in finite)
    ]
    noise = SAFETY * max(constant) if len(constant) >= FEWEST else 0.0
    return noise if noise <= torch.finfo(w.dtype).eps ** DIGITS * scale else 0.0
