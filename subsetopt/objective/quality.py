"""How good outputs are, beside their loss: accuracy, or mean squared error and R², as sums over chunks and ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from subsetopt.objective.binding import CallsModel
from subsetopt.objective.losses import CrossEntropy, Loss, MeanSquaredError
from subsetopt.objective.torch_losses import ClassLoss, ElementLoss


class Quality(Protocol):
    """Sums over samples, and the figures made of them."""

    sums: list[Tensor]

    def add(self, outputs: Tensor, targets: Tensor, factors: Tensor | None) -> None:
        """Take in a chunk, each sample as often as `factors` (n,) say, 1 on average over all of them."""

    def figures(self, sums: Sequence[float], samples: int, target_std: Sequence[float] | None) -> dict[str, float]:
        """Return the figures of the `sums` of all `samples`."""


class Accuracy:
    """The share of rows whose largest output is the target class."""

    def __init__(self, like: Tensor, dtype: torch.dtype) -> None:
        self.sums = [torch.zeros((), dtype=dtype, device=like.device)]

    def add(self, outputs: Tensor, targets: Tensor, factors: Tensor | None) -> None:
        right = outputs.argmax(1) == targets
        self.sums[0] += (right if factors is None else right * factors).sum(dtype=self.sums[0].dtype)

    def figures(self, sums: Sequence[float], samples: int, target_std: Sequence[float] | None) -> dict[str, float]:
        return {"accuracy": sums[0] / samples}


class ClassAccuracy:
    """The share of positions, of those not ignored, whose largest output is the target class; unweighted."""

    def __init__(self, loss: ClassLoss, like: Tensor, dtype: torch.dtype) -> None:
        self._loss = loss
        self.sums = [torch.zeros((), dtype=dtype, device=like.device) for _ in range(2)]

    def add(self, outputs: Tensor, targets: Tensor, factors: Tensor | None) -> None:
        for total, part in zip(self.sums, self._loss.correct(outputs, targets), strict=True):
            total += part

    def figures(self, sums: Sequence[float], samples: int, target_std: Sequence[float] | None) -> dict[str, float]:
        return {"accuracy": sums[0] / sums[1]} if sums[1] else {}


class SquaredError:
    """Mean squared error over the M output columns, and R² averaged over those that vary.

    Targets are summed as deviations from the `first` row, so that a large offset does not cost digits.
    """

    def __init__(self, like: Tensor, first: Tensor, dtype: torch.dtype) -> None:
        self._columns = like[0].numel()
        self._first = first.to(like.device, like.dtype).reshape(1, -1).to(dtype)
        self.sums = [torch.zeros(self._columns, dtype=dtype, device=like.device) for _ in range(3)]

    def add(self, outputs: Tensor, targets: Tensor, factors: Tensor | None) -> None:
        targets = targets.flatten(1)
        deviation = targets.to(self._first.dtype) - self._first
        error = (outputs.flatten(1) - targets).to(self._first.dtype)
        for total, part in zip(self.sums, (error.square(), deviation, deviation.square()), strict=True):
            total += (part if factors is None else part * factors[:, None]).sum(0)

    def figures(self, sums: Sequence[float], samples: int, target_std: Sequence[float] | None) -> dict[str, float]:
        m = self._columns
        squares = (
            [1.0] * m if target_std is None else [std * std for std in target_std]
        )  # inf beyond 1e154, where std**2 would raise
        errors = [error / samples for error in sums[:m]]
        variances = [
            square / samples - (total / samples) ** 2
            for total, square in zip(sums[m : 2 * m], sums[2 * m :], strict=True)
        ]
        # Below this a variance is what rounding leaves of equal numbers.
        least = [torch.finfo(self._first.dtype).eps * square / samples for square in sums[2 * m :]]
        shares = [e / v for e, v, smallest in zip(errors, variances, least, strict=True) if v > smallest]
        mse = sum(error * square for error, square in zip(errors, squares, strict=True)) / m
        return {"mse": mse, "r2": 1.0 - sum(shares) / len(shares)} if shares else {"mse": mse}


class NoQuality:
    """For a loss of which it is not known that outputs are classes, or numbers in the units of the targets."""

    def __init__(self) -> None:
        self.sums: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor, factors: Tensor | None) -> None:
        """Nothing to add."""

    def figures(self, sums: Sequence[float], samples: int, target_std: Sequence[float] | None) -> dict[str, float]:
        return {}


def quality_of(loss: Loss, outputs: Tensor, targets: Tensor, first: Tensor, dtype: torch.dtype) -> Quality:
    """Return what to measure: by the loss, or for a loss of the user's own by the targets; sums in `dtype`.

    `first` is a row of the targets, the same on all ranks.
    """
    if isinstance(loss, CallsModel):  # its outputs are no predictions
        return NoQuality()
    if isinstance(loss, ClassLoss):
        return ClassAccuracy(loss, outputs, dtype)
    classes = not targets.is_floating_point() and targets.ndim == 1 and outputs.ndim == 2
    if isinstance(loss, CrossEntropy) or (classes and not isinstance(loss, MeanSquaredError)):
        return Accuracy(outputs, dtype)
    if isinstance(loss, MeanSquaredError) or (
        isinstance(loss, ElementLoss) and loss.is_distance and outputs.shape == targets.shape
    ):
        return SquaredError(outputs, first, dtype)
    return NoQuality()
