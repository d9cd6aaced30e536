"""Learning-rate schedules as pure functions of the step, so that a resumed run needs no schedule state."""

from __future__ import annotations

import math

WARM_SHARE = 0.3  # of the one-cycle schedule rises
WARM_START = 1 / 25  # the one-cycle schedule's first rate, as a share of its peak


def rate_factor(schedule: str, step: int, steps: int) -> float:
    """Return the factor on the learning rate at `step` (from 0) of `steps` planned ones.

    linear and cosine end at zero after the last step; one-cycle (Smith and Topin 2018) rises to 1 over 30 % of the
    steps and falls to zero by a cosine.
    """
    share = step / max(steps, 1)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1.0 - share
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * share))
    if schedule == "one-cycle":
        if share < WARM_SHARE:
            return WARM_START + (1 - WARM_START) * 0.5 * (1.0 - math.cos(math.pi * share / WARM_SHARE))
        return 0.5 * (1.0 + math.cos(math.pi * (share - WARM_SHARE) / (1 - WARM_SHARE)))
    raise ValueError(f"unknown schedule {schedule!r}")
