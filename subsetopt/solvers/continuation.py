"""Where the minima of a family of functions, found for some values of its parameter, point to for the next value."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor


def extrapolated(minima: Sequence[tuple[float, Tensor]], strength: float) -> Tensor | None:
    """Return the point (P,) for `strength`, linearly in its logarithm, from the last two of `minima` (strength, w).

    None where there are fewer, or a strength is zero. It goes no further than the step between the two.
    """
    if len(minima) < 2 or min(strength, *(known for known, _ in minima[-2:])) <= 0:
        return None
    (before, w0), (last, w1) = minima[-2:]
    if before == last:
        return None
    return w1 + (w1 - w0) * min(1.0, math.log(strength / last) / math.log(last / before))
