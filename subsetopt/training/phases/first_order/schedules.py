"""Learning-rate schedules as pure functions of the share spent, so that a resumed run needs no schedule state."""

from __future__ import annotations

import math

WARM_SHARE = 0.3  # of the one-cycle schedule rises
WARM_START = 1 / 25  # the one-cycle schedule's first rate, as a share of its peak


WSD_WARMUP, WSD_DECAY = 0.02, 0.2  # shares of the wsd schedule that rise to the peak, and fall from it


def rate_factor(schedule: str, share: float, *, warmup: float = WSD_WARMUP, decay: float = WSD_DECAY) -> float:
    """Return the factor on the learning rate when `share` (0 to 1) of the budgeted steps or cost is spent.

    linear and cosine end at zero; one-cycle (Smith and Topin 2018) rises to 1 over the first 30 % and falls to zero by
    a cosine; wsd (warm-up, stable, decay: Hu et al. 2024, arXiv 2404.06395) rises linearly over the share `warmup`,
    stays, and falls linearly to zero over the last share `decay`.
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
    if schedule == "wsd":
        rising = share / warmup if share < warmup else 1.0
        # A first step at rate zero would do nothing but cost a gradient.
        return min(max(rising, WARM_START), (1.0 - share) / decay if share > 1.0 - decay else 1.0)
    raise ValueError(f"unknown schedule {schedule!r}")
