"""Losses of a network's outputs (M, n) on the host, one line for each output, and their derivatives in these.

Sums are taken in float64 whatever the dtype of the outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]


class OutputLoss(Protocol):
    """The weighted sum of the losses of n rows; the outputs handed over are overwritten."""

    @classmethod
    def of(cls, targets: Array, shares: Floats, dtype: np.dtype[Any]) -> Self:
        """Return that of `targets`, (n,) or (n, M), with weights `shares` (n,), for outputs of `dtype`."""

    def value(self, outputs: Array) -> float:
        """Return the weighted sum."""

    def value_and_delta(self, outputs: Array) -> tuple[float, Array]:
        """Return the weighted sum and its derivatives in the outputs, in their memory."""


@dataclass(frozen=True)
class CrossEntropy:
    """-sum_i u_i log softmax(z_i)[y_i]; `places` are those of z[y_i, i] in the memory of z."""

    places: NDArray[np.int64]
    shares: Floats
    narrow: Array  # the shares in the dtype of the outputs

    @classmethod
    def of(cls, targets: Array, shares: Floats, dtype: np.dtype[Any]) -> Self:
        """Return that of class numbers (n,)."""
        return cls(targets * len(targets) + np.arange(len(targets)), shares, shares.astype(dtype))

    def value(self, outputs: Array) -> float:
        """Return the weighted sum."""
        outputs -= outputs.max(axis=0)
        true = outputs.reshape(-1).take(self.places)
        sums = np.exp(outputs, out=outputs).sum(axis=0)
        return float(np.dot(np.log(sums) - true, self.shares))

    def value_and_delta(self, outputs: Array) -> tuple[float, Array]:
        """Return the weighted sum, and u_i (softmax(z_i) - e_{y_i})."""
        outputs -= outputs.max(axis=0)
        flat = outputs.reshape(-1)
        true = flat.take(self.places)
        sums = np.exp(outputs, out=outputs).sum(axis=0)
        value = float(np.dot(np.log(sums) - true, self.shares))
        outputs *= self.narrow / sums
        flat[self.places] -= self.narrow
        return value, outputs


@dataclass(frozen=True)
class SquaredError:
    """sum_i u_i mean_j (z_ij - y_ij)^2."""

    targets: Array  # (M, n)
    shares: Floats
    narrow: Array  # 2 u_i / M in the dtype of the outputs

    @classmethod
    def of(cls, targets: Array, shares: Floats, dtype: np.dtype[Any]) -> Self:
        """Return that of numbers (n, M)."""
        columns = np.ascontiguousarray(targets.T, dtype)
        return cls(columns, shares, (2 / len(columns) * shares).astype(dtype))

    def value(self, outputs: Array) -> float:
        """Return the weighted sum."""
        outputs -= self.targets
        np.multiply(outputs, outputs, out=outputs)
        return float(np.dot(outputs.mean(axis=0, dtype=np.float64), self.shares))

    def value_and_delta(self, outputs: Array) -> tuple[float, Array]:
        """Return the weighted sum, and 2 u_i / M (z_i - y_i)."""
        outputs -= self.targets
        value = float(np.dot(np.multiply(outputs, outputs).mean(axis=0, dtype=np.float64), self.shares))
        outputs *= self.narrow
        return value, outputs
