"""An objective on some samples whose gradient is that of all samples at one point."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from subsetopt.objective.objective import Objective
from subsetopt.objective.protocol import Purpose
from subsetopt.objective.tally import note_flops
from subsetopt.objective.wrapped import WrappedSamples


@dataclass
class CorrectedObjective(WrappedSamples):
    """f(w) + slope·(w - origin), f = `inner` an objective on a part of the samples.

    With slope = F'(origin) - f'(origin) the gradient at the origin is that of F, the objective on all samples (Johnson
    and Zhang 2013, "Accelerating stochastic gradient descent using predictive variance reduction"; Shamir, Srebro and
    Zhang 2014, "Communication-efficient distributed optimization using an approximate Newton-type method"). Curvature
    is that of f. `number` tells two corrections of one f apart.
    """

    inner: Objective
    slope: Tensor
    origin: Tensor
    number: int = 0

    @property
    def identity(self) -> Hashable:
        """That of the inner objective, with the number of the correction."""
        return self.inner.identity, self.number

    def value(self, w: Tensor, purpose: Purpose = "train") -> Tensor:
        """Return the corrected value as a float64 scalar tensor on the device."""
        return self.corrected(self.inner.value(w, purpose), w)

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        """Return the corrected value and its gradient, a new tensor of shape (P,)."""
        value, gradient = self.inner.value_and_gradient(w, purpose)
        return self.corrected(value, w), gradient.add_(self.slope)

    def corrected(self, value: Tensor, w: Tensor) -> Tensor:
        """Return f(w) = `value` with the correction."""
        note_flops(2 * w.numel())
        return value + torch.dot(self.slope, w.detach() - self.origin)


class KnownObjective:
    """`inner`, with loss and gradient at one point known: the first evaluation, which is there, costs nothing."""

    def __init__(self, inner: Objective | CorrectedObjective, value: Tensor, gradient: Tensor) -> None:
        self._inner, self._known = inner, (value, gradient)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        """Return what is known of the point where a solver begins."""
        return self._known
