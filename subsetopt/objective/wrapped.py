"""What objectives that change another one leave as it is."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor

from subsetopt.objective.protocol import (
    Linearisation,
    ObjectivePart,
    Preconditioner,
    SampledObjective,
    SmoothObjective,
)


class WrappedObjective:
    """`inner` but for its values and gradients, which a class on top of this one gives."""

    inner: SmoothObjective

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return self.inner.size

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of w and of gradients."""
        return self.inner.dtype

    @property
    def device(self) -> torch.device:
        """The device of w and of gradients."""
        return self.inner.device

    @property
    def identity(self) -> Hashable:
        """That of `inner`."""
        return self.inner.identity

    def initial(self) -> Tensor:
        """Return a fresh copy of the point to start from, shape (P,)."""
        return self.inner.initial()

    def linearise(self, w: Tensor) -> Linearisation:
        """Return curvature products at w."""
        return self.inner.linearise(w)


class WrappedSamples(WrappedObjective):
    """The same of an objective over samples."""

    inner: SampledObjective

    @property
    def l2(self) -> float:
        """The strength of the L2 term."""
        return self.inner.l2

    def part(self, share: float, generator: torch.Generator) -> ObjectivePart:
        """Return a random part of the samples."""
        return self.inner.part(share, generator)

    def preconditioner(self, kind: str) -> Preconditioner:
        """Return factors that have seen no samples yet."""
        return self.inner.preconditioner(kind)
