"""A loss whose samples have factors (see `sample_factors.py`), which travel with their targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from subsetopt.errors import ModelError
from subsetopt.objective.losses import Loss, has_floor
from subsetopt.objective.model_loss import ModelLoss, is_mean


@dataclass
class WeightedTargets:
    """Targets `values` (n, ...) with the factor of each sample, `factors` (n,); cut and copied as one tensor is."""

    values: Tensor
    factors: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> WeightedTargets:
        return WeightedTargets(self.values[rows], self.factors[rows])

    @property
    def device(self) -> torch.device:
        """Where both are."""
        return self.values.device

    @property
    def shape(self) -> torch.Size:
        """The shape of the targets."""
        return self.values.shape

    def to(self, device: Any, *, non_blocking: bool = False) -> WeightedTargets:
        """Return both on `device`."""
        return WeightedTargets(
            self.values.to(device, non_blocking=non_blocking), self.factors.to(device, non_blocking=non_blocking)
        )

    def clone(self) -> WeightedTargets:
        """Return a copy."""
        return WeightedTargets(self.values.clone(), self.factors.clone())

    def copy_(self, other: WeightedTargets) -> WeightedTargets:
        """Take over the contents of `other`, of the same shape."""
        self.values.copy_(other.values)
        self.factors.copy_(other.factors)
        return self


class WeightedLoss:
    """`inner`, with each sample's loss and output Hessian times the factor that comes with its target.

    Targets without factors have the factor 1.
    """

    def __init__(self, inner: Loss) -> None:
        self.inner = inner
        self.name = inner.name
        self.never_negative = has_floor(inner)

    def per_sample(self, outputs: Tensor, targets: Tensor | WeightedTargets) -> Tensor:
        if isinstance(targets, Tensor):
            return self.inner.per_sample(outputs, targets)
        return self.inner.per_sample(outputs, targets.values) * targets.factors

    def total(self, outputs: Tensor, targets: Tensor | WeightedTargets, dtype: torch.dtype) -> Tensor:
        return self.per_sample(outputs, targets).sum(dtype=dtype)

    def output_hessian(self, outputs: Tensor, targets: Tensor | WeightedTargets) -> Callable[[Tensor], Tensor]:
        if isinstance(targets, Tensor):
            return self.inner.output_hessian(outputs, targets)
        unweighted, factors = self.inner.output_hessian(outputs, targets.values), along(targets, outputs)
        return lambda u: factors * unweighted(u)

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Return targets prepared; those that have factors have been so."""
        return targets if isinstance(targets, WeightedTargets) else self.inner.prepare(targets, dtype)

    def factors(self, targets: Tensor, weights: Tensor | None) -> Tensor | None:
        return self.inner.factors(targets, weights)

    def check(self, outputs: Tensor, targets: Tensor | WeightedTargets, all_targets: Tensor | WeightedTargets) -> None:
        self.inner.check(outputs, values_of(targets), values_of(all_targets))
        self.inner.per_sample(outputs.detach(), values_of(targets))  # raises where the loss gives but a mean
        calls_model = isinstance(without_weights(self.inner), ModelLoss)
        if calls_model and is_mean(outputs) and isinstance(all_targets, WeightedTargets):
            apart = all_targets.factors.max() - all_targets.factors.min()
            if bool(apart > 1e-6 * all_targets.factors.max()):
                raise ModelError("loss: it returns a mean; sample_weight needs one loss per sample, shape (n,)")


def prepared(loss: Loss, targets: Tensor, weights: Tensor | None, dtype: torch.dtype) -> tuple[Loss, Tensor]:
    """Return loss and targets (K, ...) of a set of samples, with the factors that belong to this set.

    `weights` (K,) are the user's, None where there are none.
    """
    values = loss.prepare(targets, dtype)
    factors = loss.factors(values, weights)
    if factors is None:
        return loss, values
    return WeightedLoss(loss), cast(Tensor, WeightedTargets(values, factors.to(values.device, dtype)))


def without_weights(loss: Loss) -> Loss:
    """Return the loss of samples that count alike."""
    while isinstance(loss, WeightedLoss):
        loss = loss.inner
    return loss


def values_of(targets: Tensor | WeightedTargets) -> Tensor:
    """Return the targets without factors."""
    return targets.values if isinstance(targets, WeightedTargets) else targets


def along(targets: WeightedTargets, outputs: Tensor) -> Tensor:
    """Return the factors in a shape that multiplies `outputs` (n, ...)."""
    return targets.factors.to(outputs.dtype).reshape(-1, *[1] * (outputs.ndim - 1))
