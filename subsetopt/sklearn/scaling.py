"""Standardisation with sample weights: each column minus its weighted mean, over its weighted standard deviation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# What rounding makes of a constant column: a deviation of so many units in the last place of its largest number.
_CONSTANT_ULPS = 4


@dataclass(frozen=True)
class Scaling:
    """`mean` and `scale`, each (D,)."""

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, values: Floats, weights: Floats | None) -> Self:
        """Return that of `values` (n, D); a constant column keeps its scale, so that it becomes zero."""
        largest = np.abs(values).max(axis=0, initial=0.0)
        unit = np.where(largest > 0, largest, 1.0)  # so that squares neither overflow nor vanish
        mean = np.average(values / unit, axis=0, weights=weights)
        variance = np.average(np.square(values / unit - mean), axis=0, weights=weights)
        deviation = np.sqrt(variance)
        constant = deviation <= _CONSTANT_ULPS * np.finfo(np.float64).eps
        return cls(mean * unit, np.where(constant, unit, deviation * unit))

    @classmethod
    def none(cls, columns: int) -> Self:
        """Return the scaling that changes nothing."""
        return cls(np.zeros(columns), np.ones(columns))

    def apply(self, values: Floats) -> Floats:
        """Return (values - mean) / scale."""
        result: Floats = (values - self.mean) / self.scale
        return result

    def undo(self, values: Floats) -> Floats:
        """Return values * scale + mean."""
        result: Floats = values * self.scale + self.mean
        return result
