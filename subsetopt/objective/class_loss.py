"""Losses of classes, nn.CrossEntropyLoss and nn.NLLLoss, summed per sample over positions; see `torch_losses`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subsetopt.errors import DataError, ModelError, SettingError
from subsetopt.objective.double_backward import double_backward
from subsetopt.objective.loss_name import callable_name
from subsetopt.objective.sample_factors import normalised


class ClassLoss:
    """nn.CrossEntropyLoss or nn.NLLLoss with class weights, `ignore_index`, label smoothing and several positions.

    Outputs `(n, C, ...)` as torch has them, or `(n, ..., C)` where only that fits; targets `(n, ...)` are classes, or
    for cross-entropy probabilities of the outputs' shape. T_i adds up w_y l over a sample's positions; m_i adds up w_y
    over those that are not ignored (1 each for probabilities, as in torch). With `reduction="none"` all positions
    count 1, whatever their weights.
    """

    def __init__(self, module: nn.CrossEntropyLoss | nn.NLLLoss) -> None:
        self.name = callable_name(module)
        self.kind = type(module).__name__
        self.weight: Tensor | None = module.weight
        self.ignore_index = module.ignore_index
        self.label_smoothing = float(getattr(module, "label_smoothing", 0.0))
        self._on_logits = isinstance(module, nn.CrossEntropyLoss)
        self._plain_mean = module.reduction == "none"
        if self.weight is not None and not bool(((self.weight >= 0) & self.weight.isfinite()).all()):
            raise SettingError(
                "loss", "weight", "has a negative or infinite class weight", "give weights of at least 0"
            )

    @property
    def never_negative(self) -> bool:
        """Whether no value is below zero: those of log-probabilities may be, which nothing keeps from being above 0."""
        return self._on_logits

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        z, y = _by_position(outputs, targets)
        weight = None if self.weight is None else self.weight.to(z)
        if self._on_logits:
            smoothing = self.label_smoothing
            losses = F.cross_entropy(z, y, weight, None, self.ignore_index, None, "none", smoothing)
        else:
            losses = F.nll_loss(z, y, weight, None, self.ignore_index, None, "none")
        return losses.reshape(len(outputs), -1).sum(1)

    def total(self, outputs: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        return self.per_sample(outputs, targets).sum(dtype=dtype)

    def output_hessian(self, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        """Return u -> a p * (u - <p, u>) at every position, a the sum of what multiplies the C log-probabilities."""
        if not self._on_logits:
            return double_backward(self, outputs, targets)
        z, y = _by_position(outputs.detach(), targets)
        p, a = z.softmax(1), self._coefficients(z, y)[:, None]

        def product(u: Tensor) -> Tensor:
            v = _flat(u, targets)
            return _unflat(a * p * (v - (p * v).sum(1, keepdim=True)), u, targets)

        return product

    def spread(self, outputs: Tensor, targets: Tensor, noise: Tensor) -> Tensor:
        """Return S e for e of the outputs' shape, S S' being the Hessian: sqrt(a) (sqrt(p) e - p <sqrt(p), e>)."""
        z, y = _by_position(outputs.detach(), targets)
        p, a = z.softmax(1), self._coefficients(z, y)[:, None]
        drawn = p.sqrt() * _flat(noise, targets)
        return _unflat(a.sqrt() * (drawn - p * drawn.sum(1, keepdim=True)), noise, targets)

    @property
    def has_spread(self) -> bool:
        """Whether `spread` can be asked for."""
        return self._on_logits

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        if targets.dtype == torch.bool or targets.is_complex():
            raise DataError(f"targets: {targets.dtype}; give integer classes, or probabilities of the outputs' shape")
        return targets.to(dtype) if targets.is_floating_point() else targets.to(torch.int64)

    def factors(self, targets: Tensor, weights: Tensor | None) -> Tensor | None:
        return normalised(self._mass(targets), weights, len(targets))

    def _mass(self, targets: Tensor) -> Tensor | None:
        """Return m_i; None where it is 1 for every sample."""
        if targets.is_floating_point():
            positions = targets[0, 0].numel() if targets.ndim > 1 else 1
            return None if positions == 1 else targets.new_full((len(targets),), positions, dtype=torch.float64)
        if self._plain_mean:
            positions = targets[0].numel()
            return None if positions == 1 else targets.new_full((len(targets),), positions, dtype=torch.float64)
        if targets.ndim == 1 and self.weight is None and not bool((targets == self.ignore_index).any()):
            return None
        valid = targets != self.ignore_index
        if self.weight is None:
            return valid.reshape(len(targets), -1).sum(1, dtype=torch.float64)
        inside = valid & (targets >= 0) & (targets < len(self.weight))  # others are refused by `check`
        masses = self.weight.to(targets.device, torch.float64)[torch.where(inside, targets, 0)] * inside
        return masses.reshape(len(targets), -1).sum(1)

    def check(self, outputs: Tensor, targets: Tensor, all_targets: Tensor) -> None:
        if outputs.ndim < 2 or len(outputs) != len(targets):
            raise ModelError(
                f"model: outputs have shape {tuple(outputs.shape)}; this loss needs ({len(targets)}, C, ...)"
            )
        classes = _by_position(outputs, targets)[0].shape[1]
        if self.weight is not None and len(self.weight) != classes:
            raise ModelError(
                f"loss: {len(self.weight)} class weights, but the model has {classes} classes; give one each"
            )
        if all_targets.is_floating_point():
            if not self._on_logits:
                raise DataError("targets: probabilities; NLLLoss takes integer classes, CrossEntropyLoss both")
            if not bool(torch.isfinite(all_targets).all()):
                raise DataError("targets: NaN or infinite values; remove or repair those rows")
            return
        counted = all_targets[all_targets != self.ignore_index]
        if len(counted) and (int(counted.min()) < 0 or int(counted.max()) >= classes):
            raise DataError(
                f"targets: classes {int(counted.min())} to {int(counted.max())}, but the model has {classes}; number "
                f"the classes 0 to {classes - 1}, and mark what is to be ignored by {self.ignore_index}"
            )

    def correct(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many classes are predicted rightly, and of how many that are not ignored."""
        z, y = _by_position(outputs, targets)
        y = y.argmax(1) if y.is_floating_point() else y
        valid = y != self.ignore_index
        return ((z.argmax(1) == y) & valid).sum(), valid.sum()

    def _coefficients(self, z: Tensor, y: Tensor) -> Tensor:
        """Return sum_c a_c, (positions,), where the loss of a position is -sum_c a_c log p_c."""
        smoothing, classes = self.label_smoothing, z.shape[1]
        weight = z.new_ones(classes) if self.weight is None else self.weight.to(z)
        if y.is_floating_point():
            return (((1 - smoothing) * y + smoothing / classes) * weight).sum(1)
        valid = y != self.ignore_index
        own = weight[torch.where(valid, y, 0)]
        return ((1 - smoothing) * own + smoothing / classes * weight.sum()) * valid


def _by_position(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (positions, C), and classes (positions,) or probabilities (positions, C)."""
    if targets.is_floating_point():
        if outputs.shape != targets.shape:
            raise ModelError(
                f"model: outputs have shape {tuple(outputs.shape)}; probabilities as targets need the same, "
                f"{tuple(targets.shape)}; for classes give integer targets"
            )
        return _flat(outputs, targets), _flat(targets, targets)
    _require_positions(outputs, targets)
    return _flat(outputs, targets), targets.reshape(-1)


def _class_axis(outputs: Tensor, targets: Tensor) -> int:
    """Return the axis of the classes: 1, as in torch, unless only the last one fits."""
    second = targets.is_floating_point() or outputs.shape[2:] == targets.shape[1:]
    return 1 if second else outputs.ndim - 1


def _require_positions(outputs: Tensor, targets: Tensor) -> None:
    shape, wanted = tuple(outputs.shape), tuple(targets.shape)
    if outputs.ndim < 2 or (shape[:1] + shape[2:] != wanted and shape[:-1] != wanted):
        form = ", ".join(["n", "C", *map(str, wanted[1:])])
        raise ModelError(f"model: outputs have shape {shape}; targets of shape {wanted} need logits of shape ({form})")


def _flat(values: Tensor, targets: Tensor) -> Tensor:
    moved = values.movedim(_class_axis(values, targets), -1)
    return moved.reshape(-1, moved.shape[-1])


def _unflat(values: Tensor, like: Tensor, targets: Tensor) -> Tensor:
    axis = _class_axis(like, targets)
    return values.reshape(like.movedim(axis, -1).shape).movedim(-1, axis)
