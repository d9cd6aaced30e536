"""The minima of an L2 path side by side: which strength is best, and what result.json says of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

_COUNTS = ("iteration", "evaluations", "products")


@dataclass
class PathMinimum:
    """The minimum w (P,) of one strength; `record` has its `l2`, losses, gradient norm, stop reason and counts.

    `loss` is the objective with its L2 term, `held_out_loss` has none.
    """

    w: Tensor
    record: dict[str, Any]

    def after(self, first: PathMinimum) -> PathMinimum:
        """Return this minimum with the counts of the solve that it went on from added to its own."""
        sums = {name: self.record[name] + first.record[name] for name in _COUNTS}
        return PathMinimum(self.w, {**self.record, **sums})


def best_of(minima: Sequence[PathMinimum]) -> int:
    """Return the place of the lowest held-out loss; of equal ones that of the strongest penalty."""
    losses = [minimum.record["held_out_loss"] for minimum in minima]
    known = [math.inf if loss is None or math.isnan(loss) else loss for loss in losses]
    return min(range(len(known)), key=known.__getitem__)


def document(strengths: Sequence[float], minima: Sequence[PathMinimum], best: int, looser: float) -> dict[str, Any]:
    """Return the entry `l2_path` of result.json; strengths that a limit left out have no entry of their own."""
    entries = [
        {("iterations" if name == "iteration" else name): value for name, value in minimum.record.items()}
        for minimum in minima
    ]
    return {
        "chosen": minima[best].record["l2"],
        "strengths": list(strengths),
        "minima": entries,
        "best": best,
        "looser": looser,
    }
