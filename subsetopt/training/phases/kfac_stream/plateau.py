"""The rate by evidence: it falls where the losses of fresh subsets do not.

Noise in the gradients, and steps too long for curvature that F lacks, hold a stream on a level of the loss that the
rate sets: squared gradients are large there, so that neither signal nor size of subsets tells it from progress. The
mean loss of successive blocks of steps does. In a short stream these differ by noise, and the rate's planned fall is
enough: they do not look at it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BLOCK = 8  # steps
FALL = 0.7  # of the rate, after a block whose mean loss is not below that of the block before


@dataclass
class Plateau:
    """The `total` loss of `count` steps of a block, the mean `before`, and the `factor` of the rate so far.

    Where `known` is false, as for short streams and those of earlier versions, the factor stays 1.
    """

    total: float = 0.0
    count: int = 0
    before: float = math.nan
    factor: float = 1.0
    known: bool = True

    def take(self, loss: float, followed: bool) -> None:
        """Take in the loss of a fresh subset; the factor falls where it is `followed`."""
        if not self.known:
            return
        self.total, self.count = self.total + loss, self.count + 1
        if self.count < BLOCK:
            return
        mean = self.total / BLOCK
        if followed and mean >= self.before:
            self.factor *= FALL
        self.before, self.total, self.count = mean, 0.0, 0
