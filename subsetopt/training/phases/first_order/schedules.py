"""Learning-rate schedules as pure functions of the share spent, so that a resumed run needs no schedule state."""

from __future__ import annotations

import math

WARM_SHARE = 0.3  # of the one-cycle schedule rises
WARM_START = 1 / 25  # the one-cycle schedule's first rate, as a share of its peak


def rate_factor(schedule: str, share: float) -> float:
    """Return the factor on the learning rate when `share` (0 to 1) of the budgeted steps or cost is spent.

    linear and cosine end at zero; one-cycle (Smith and Topin 2018) rises to 1 over the first 30 % and falls to zero by
    a cosine.
    """
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
