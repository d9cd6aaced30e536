"""Losses per sample, and the products with their Hessian in the model outputs that Gauss-Newton needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subsetopt.errors import DataError, ModelError, SettingError, UserError, unknown_name
from subsetopt.objective.double_backward import double_backward
from subsetopt.objective.loss_guard import require_loss_of_samples
from subsetopt.objective.loss_name import callable_name
from subsetopt.objective.model_loss import ModelLoss, calls_the_model
from subsetopt.objective.sample_factors import normalised
from subsetopt.objective.torch_losses import adapted

LossFunction = Callable[[Tensor, Tensor], Tensor]


class Loss(Protocol):
    """l(z, y) for outputs z `(n, M)` and targets y; an objective is the mean of c l (see `factors`).

    A loss of which no value is below zero says so by `never_negative = True` (see `has_floor`).
    """

    name: str

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the n losses, shape (n,)."""

    def total(self, outputs: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the sum of the n losses, accumulated in `dtype`."""

    def output_hessian(self, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        """Return u -> H u for u of shape (n, M), where H is block-diagonal: the Hessian of each sample's loss in z."""

    def factors(self, targets: Tensor, weights: Tensor | None) -> Tensor | None:
        """Return c `(K,)`, float64, such that the objective is the mean of c_i times the loss of sample i.

        `weights` `(K,)` are the user's; None is returned where all c_i are 1 (see `sample_factors.py`).
        """

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """Return all targets in the dtype and shape the loss takes; raises `DataError` when that cannot be."""

    def check(self, outputs: Tensor, targets: Tensor, all_targets: Tensor) -> None:
        """Raise `ModelError` or `DataError` unless the outputs of one chunk fit its targets, and all targets fit M."""


class CrossEntropy:
    """l = -log softmax(z)[y] for logits z `(n, M)` and int64 classes y `(n,)`, optionally with label smoothing."""

    never_negative = True

    def __init__(self, label_smoothing: float = 0.0) -> None:
        if not 0.0 <= label_smoothing < 1.0:
            raise SettingError("label_smoothing", label_smoothing, "must lie in [0, 1)", "try 0.1")
        self.label_smoothing = label_smoothing
        self.name = "cross_entropy" if label_smoothing == 0 else f"cross_entropy(label_smoothing={label_smoothing})"

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, reduction="none", label_smoothing=self.label_smoothing)

    def total(self, outputs: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        return self.per_sample(outputs, targets).sum(dtype=dtype)

    def output_hessian(self, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        """Return u -> p * (u - <p, u>), p = softmax(z) (Schraudolph 2002, section 3); y does not enter."""
        p = outputs.detach().softmax(1)

        def product(u: Tensor) -> Tensor:
            return p * (u - (p * u).sum(1, keepdim=True))

        return product

    def factors(self, targets: Tensor, weights: Tensor | None) -> Tensor | None:
        return normalised(None, weights, len(targets))

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        if targets.is_floating_point() or targets.dtype == torch.bool or targets.ndim != 1:
            given = f"{targets.dtype} of shape {tuple(targets.shape)}"
            raise DataError(f"targets: {given}; cross_entropy takes integer classes of shape (n,)")
        return targets.to(torch.int64)

    def check(self, outputs: Tensor, targets: Tensor, all_targets: Tensor) -> None:
        if outputs.ndim != 2 or len(outputs) != len(targets):
            raise ModelError(_shape_message(outputs, f"cross_entropy needs logits of shape ({len(targets)}, M)"))
        low, high = int(all_targets.min()), int(all_targets.max())
        if low < 0 or high >= outputs.shape[1]:
            raise DataError(
                f"targets: classes {low} to {high}, but the model has {outputs.shape[1]} outputs; "
                f"number the classes 0 to {outputs.shape[1] - 1} or give the model more outputs"
            )


class MeanSquaredError:
    """l = mean over the M outputs of (z - y)^2, without the factor 1/2; targets y `(n, M)` or, for M = 1, `(n,)`."""

    name = "mse"
    never_negative = True

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().flatten(1).mean(1)

    def total(self, outputs: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        return self.per_sample(outputs, targets).sum(dtype=dtype)

    def output_hessian(self, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        """Return u -> (2 / M) u."""
        factor = 2.0 * len(outputs) / outputs.numel()
        return lambda u: factor * u

    def factors(self, targets: Tensor, weights: Tensor | None) -> Tensor | None:
        return normalised(None, weights, len(targets))

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        if targets.is_complex():
            raise DataError("targets: complex; give real and imaginary parts as separate outputs")
        return (targets.unsqueeze(1) if targets.ndim == 1 else targets).to(dtype)

    def check(self, outputs: Tensor, targets: Tensor, all_targets: Tensor) -> None:
        if outputs.shape != targets.shape:
            need = f"mse needs the shape of the targets, {tuple(targets.shape)}"
            flat = targets.shape[1:] == (1,) and outputs.shape == targets.shape[:1]
            missing = "; unsqueeze(1) the outputs" if flat else ""
            raise ModelError(_shape_message(outputs, f"{need}{missing}"))
        if not bool(torch.isfinite(all_targets).all()):
            raise DataError("targets: NaN or infinite values; remove or repair those rows")


class CallableLoss:
    """A user's `function(outputs, targets)` that returns the n losses, or their mean as a scalar.

    Refused is what chunks would weight wrongly: the sum of the losses, and a loss that mixes samples or weights them by
    what stands beside them (see `loss_guard.py`).
    """

    def __init__(self, function: LossFunction) -> None:
        self.function = function
        self.name = callable_name(function)

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = self.function(outputs, targets)
        if losses.shape != (len(outputs),):
            raise UserError("loss: it returns a mean; this use needs losses per sample, so give it reduction='none'")
        return losses

    def total(self, outputs: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        losses = self.function(outputs, targets)
        return losses.to(dtype) * len(outputs) if losses.ndim == 0 else losses.sum(dtype=dtype)

    def output_hessian(self, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the product by double backward; zero where the loss is linear in z."""
        return double_backward(self, outputs, targets)

    def factors(self, targets: Tensor, weights: Tensor | None) -> Tensor | None:
        return normalised(None, weights, len(targets))

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        return targets.to(dtype) if targets.is_floating_point() else targets

    def check(self, outputs: Tensor, targets: Tensor, all_targets: Tensor) -> None:
        require_loss_of_samples(self._call, outputs, targets, all_targets)

    def _call(self, outputs: Tensor, targets: Tensor) -> Tensor:
        try:
            losses = self.function(outputs, targets)
        except Exception as error:
            shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} {targets.dtype}"
            reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
            hint = "; a loss(model, batch) is given as model_loss(function)" if "callable" in reason else ""
            raise ModelError(f"loss: it fails on {shapes}: {reason}{hint}") from error
        if not isinstance(losses, Tensor) or not losses.is_floating_point():
            raise ModelError("loss: it returns no floating-point tensor; return (n,) losses or their mean")
        return losses


_NAMED: dict[str, Callable[[], Loss]] = {"cross_entropy": CrossEntropy, "mse": MeanSquaredError}


def make_loss(loss: str | LossFunction | Loss) -> Loss:
    """Return the loss meant by a name, a module of torch.nn, a function, or a `Loss` itself.

    A function is one of (outputs, targets), unless its arguments are named or annotated as (model, batch).
    """
    if isinstance(loss, str):
        if loss not in _NAMED:
            raise unknown_name("loss", loss, _NAMED)
        return _NAMED[loss]()
    if not isinstance(loss, type) and hasattr(loss, "output_hessian"):
        return cast(Loss, loss)
    if isinstance(loss, type) and issubclass(loss, nn.Module):
        raise SettingError("loss", loss.__name__, "is a class", f"give an object of it: {loss.__name__}()")
    if isinstance(loss, type) or not callable(loss):
        raise SettingError("loss", loss, "neither a name nor a function", "use 'cross_entropy', 'mse' or a function")
    if isinstance(loss, nn.Module):
        return adapted(loss) or CallableLoss(loss)
    return ModelLoss(loss) if calls_the_model(loss) else CallableLoss(loss)


def has_floor(loss: Loss) -> bool:
    """Return whether the loss is known to have no value below zero, so that its size is a scale; False for a user's."""
    return bool(getattr(loss, "never_negative", False))


def _shape_message(outputs: Tensor, need: str) -> str:
    return f"model: outputs have shape {tuple(outputs.shape)}; {need}"
