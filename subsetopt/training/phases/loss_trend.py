"""Where the losses of a phase of mini-batches began and where they ended: each is seen through sampling noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MEMORY = 0.9  # of the running mean
FEWEST = 10  # losses, below which nothing is said


@dataclass
class LossTrend:
    """The `first` loss and the running mean of the `last`, of `count` in all; NaN before the first."""

    first: float = math.nan
    last: float = math.nan
    count: int = 0

    def take(self, loss: float) -> None:
        """Take in the next loss; one that is not finite ends the phase or is gone back from, and is left out."""
        if not math.isfinite(loss):
            return
        self.count += 1
        self.first = loss if self.count == 1 else self.first
        weight = max(1.0 / self.count, 1.0 - MEMORY)
        self.last = loss if self.count == 1 else self.last + weight * (loss - self.last)

    def details(self) -> dict[str, float]:
        """Return entries for the record of the phase, none where too few losses are known."""
        return {"loss_first": self.first, "loss_last": self.last} if self.count >= FEWEST else {}


def upgraded_trend(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a checkpoint with those of a trend, which earlier versions did not keep: it says nothing.

    A count below zero cannot come to `FEWEST` by the losses that follow.
    """
    if "trend.count" in numbers:
        return dict(numbers)
    return {**numbers, "trend.first": math.nan, "trend.last": math.nan, "trend.count": -(10**12)}
