"""How many samples BatchNorm's running statistics are computed anew from, at the end of a stream of subsets.

A stream takes few and large steps, so that averages over its subsets lag behind the parameters. Statistics at the last
parameters do not; from too few samples they are noisier than the averages.
"""

from __future__ import annotations

import math

from subsetopt.training.workspace import Workspace

MOST, FEWEST = 1000, 16  # samples; below the fewest the averages stay
COST_SHARE = 0.03  # of what the stream may spend


def statistics_samples(workspace: Workspace, samples: int, affordable: float) -> int:
    """Return how many of `samples` to take for `COST_SHARE` of the `affordable` cost; 0 for none."""
    if not workspace.flat.has_running_statistics:
        return 0
    bought = MOST if math.isinf(affordable) else int(COST_SHARE * affordable / workspace.ledger.price("forward", 1))
    count = min(MOST, samples, bought)
    return count if count >= FEWEST else 0
