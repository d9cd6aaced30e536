"""The loss modules of torch.nn, normalised once over all samples instead of once per batch.

torch divides by what is in the batch: class weights of its labels, tokens that are not ignored. The mean of such batch
values is another function for every way of cutting the data. Here each sample has its summed loss T_i and its mass m_i,
and an objective is sum_i T_i / sum_i m_i over all of them, which is torch's value on one batch of everything.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from subsetopt.errors import ModelError, SettingError
from subsetopt.objective.class_loss import ClassLoss
from subsetopt.objective.double_backward import double_backward
from subsetopt.objective.loss_guard import require_loss_of_samples
from subsetopt.objective.loss_name import callable_name
from subsetopt.objective.sample_factors import normalised

__all__ = ["ELEMENTWISE", "OTHER_ARGUMENTS", "ClassLoss", "ElementLoss", "adapted"]

ELEMENTWISE = (
    nn.BCELoss, nn.BCEWithLogitsLoss, nn.HingeEmbeddingLoss, nn.HuberLoss, nn.KLDivLoss, nn.L1Loss, nn.MSELoss,
    nn.MultiLabelMarginLoss, nn.MultiLabelSoftMarginLoss, nn.MultiMarginLoss, nn.PoissonNLLLoss, nn.SmoothL1Loss,
    nn.SoftMarginLoss,
)  # fmt: skip
"""Modules whose mean is a plain one: over all elements, or over samples."""

OTHER_ARGUMENTS = {
    nn.CTCLoss: "log-probabilities, targets and both lengths",
    nn.GaussianNLLLoss: "means, targets and variances",
    nn.CosineEmbeddingLoss: "two inputs and a target",
    nn.MarginRankingLoss: "two inputs and a target",
    nn.TripletMarginLoss: "anchors, positives and negatives",
    nn.TripletMarginWithDistanceLoss: "anchors, positives and negatives",
}
"""Modules that are not functions of (outputs, targets)."""


def adapted(module: nn.Module) -> ClassLoss | ElementLoss | None:
    """Return torch's own loss module as a loss of samples; None for a module of the user's.

    Raises `SettingError` for those that take other arguments, that have parameters, or that sum over the batch.
    """
    kind = type(module)
    if kind in OTHER_ARGUMENTS:
        raise SettingError(
            "loss", kind.__name__, f"takes {OTHER_ARGUMENTS[kind]}, not (outputs, targets)",
            "write a function (outputs, targets) that calls it and returns one loss per sample",
        )  # fmt: skip
    if any(True for _ in module.parameters()):
        problem = "has parameters of its own, which would not be trained"
        raise SettingError("loss", kind.__name__, problem, "make them part of the model, and use model_loss")
    if kind not in (nn.CrossEntropyLoss, nn.NLLLoss, *ELEMENTWISE):
        return None
    reduction: Any = module.reduction
    if reduction == "sum":
        raise SettingError(
            "loss", f"{kind.__name__}(reduction='sum')", "grows with the number of samples, and so would every step",
            "use reduction='mean'; the minimum is the same, but for l2, which counts K times as much",
        )  # fmt: skip
    if isinstance(module, nn.CrossEntropyLoss | nn.NLLLoss):
        return ClassLoss(module)
    return ElementLoss(module)


class ElementLoss:
    """The mean over a sample's elements of an elementwise loss, or the loss of a sample where torch gives one.

    Every sample has the mass 1. With `reduction="batchmean"` (KLDivLoss) elements are added up.
    """

    def __init__(self, module: nn.Module) -> None:
        self.name = callable_name(module)
        self._sums = getattr(module, "reduction", "mean") == "batchmean"
        self.kind = type(module).__name__
        self._module: Any = copy.deepcopy(module)
        vars(self._module)["reduction"] = "none"

    @property
    def takes_classes(self) -> bool:
        """Whether its targets are class numbers, and not of the outputs' shape."""
        return isinstance(self._module, nn.MultiMarginLoss | nn.MultiLabelMarginLoss)

    @property
    def is_distance(self) -> bool:
        """Whether it is one of outputs in the units of the targets."""
        return isinstance(self._module, nn.HuberLoss | nn.L1Loss | nn.MSELoss | nn.SmoothL1Loss)

    @property
    def never_negative(self) -> bool:
        """Whether no value is below zero, for targets as the loss takes them."""
        return not isinstance(self._module, nn.KLDivLoss | nn.PoissonNLLLoss)

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses: Tensor = self._placed(outputs)(outputs, targets)
        if losses.ndim < 2:
            return losses
        return losses.flatten(1).sum(1) if self._sums else losses.flatten(1).mean(1)

    def total(self, outputs: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        return self.per_sample(outputs, targets).sum(dtype=dtype)

    def output_hessian(self, outputs: Tensor, targets: Tensor) -> Callable[[Tensor], Tensor]:
        return double_backward(self, outputs, targets)

    def prepare(self, targets: Tensor, dtype: torch.dtype) -> Tensor:
        binary = isinstance(self._module, nn.BCELoss | nn.BCEWithLogitsLoss | nn.MultiLabelSoftMarginLoss)
        return targets.to(dtype) if targets.is_floating_point() or targets.dtype == torch.bool or binary else targets

    def factors(self, targets: Tensor, weights: Tensor | None) -> Tensor | None:
        return normalised(None, weights, len(targets))

    def check(self, outputs: Tensor, targets: Tensor, all_targets: Tensor) -> None:
        self._require_weights_of_outputs(outputs)
        if not self.takes_classes and outputs.shape != targets.shape:  # torch broadcasts (n,) against (n, 1) to (n, n)
            raise ModelError(
                f"model: outputs have shape {tuple(outputs.shape)}; {self.kind} needs that of the targets, "
                f"{tuple(targets.shape)}: {_remedy(outputs, targets)}"
            )
        require_loss_of_samples(lambda z, y: _called(self, z, y), outputs, targets, all_targets)

    def _require_weights_of_outputs(self, outputs: Tensor) -> None:
        for name in ("weight", "pos_weight"):
            weight = getattr(self._module, name, None)
            if isinstance(weight, Tensor) and weight.ndim >= outputs.ndim and len(weight) > 1:
                raise ModelError(
                    f"loss: {name} of shape {tuple(weight.shape)} weights the places in a batch; give {name} per "
                    "output, and the weights of samples as sample_weight"
                )

    def _placed(self, outputs: Tensor) -> nn.Module:
        placed: nn.Module = self._module.to(outputs.device, outputs.dtype)
        return placed


def _remedy(outputs: Tensor, targets: Tensor) -> str:
    if outputs.ndim < targets.ndim:  # in a run targets are (n, M), however they were given
        return f"unsqueeze the outputs, so that the model returns {tuple(targets.shape)}"
    if outputs.ndim > targets.ndim:
        return "unsqueeze the targets, or squeeze the outputs"
    return f"let the model return {tuple(targets.shape)}"


def _called(loss: ElementLoss, outputs: Tensor, targets: Tensor) -> Tensor:
    try:
        return loss.per_sample(outputs, targets)
    except (RuntimeError, ValueError, IndexError) as error:
        shapes = f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} {targets.dtype}"
        raise ModelError(f"loss: it fails on {shapes}: {str(error).splitlines()[0][:160]}") from error
