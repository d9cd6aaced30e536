"""A loss given to a run as an object: what kinds a run takes, and that it fits model and data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from subsetopt.data import Dataset, Preprocess, Split
from subsetopt.errors import SettingError
from subsetopt.objective import FlatModel, Loss, Residuals, make_loss
from subsetopt.objective.binding import CallsModel
from subsetopt.objective.module_call import InPlaceOfForward
from subsetopt.objective.weighting import WeightedLoss


def own_loss(loss: Any) -> Loss:
    """Return `loss`, a module of torch.nn or a function (outputs, targets), as a loss.

    Raises `SettingError` for a loss that calls the model: mini-batches, samplers and factors need its outputs.
    """
    if isinstance(loss, WeightedLoss):
        return loss
    kind = make_loss(loss)
    if isinstance(kind, CallsModel):
        raise SettingError(
            "loss",
            type(kind).__name__,
            "calls the model itself, and a run needs the model's outputs",
            "give it to Objective and minimize that, or give a loss(outputs, targets)",
        )
    return kind


def as_run_data(residuals: Residuals, model: nn.Module) -> tuple[Dataset, Loss, InPlaceOfForward]:
    """Return residuals as the data and loss of a run, and what is evaluated in place of the model.

    Points are the inputs, the numbers of their terms the targets; nothing is standardised or held out.
    """
    binding = residuals.bind(residuals.points, residuals.term, None)
    inputs, count = binding.inputs, len(residuals.term)
    shape = tuple(inputs.shape[1:]) if isinstance(inputs, Tensor) else inputs[:1].shapes
    train = Split(inputs, binding.targets.to(torch.float32)[:, None], torch.arange(count, device="cpu"))
    data = Dataset("residuals", "regression", shape, residuals.width(model), train, None, None)
    return data, WeightedLoss(residuals), binding.function


def check_own_loss(loss: Loss, flat: FlatModel, train: Split, preprocess: Preprocess, samples: int) -> None:
    """Evaluate the loss on a few samples; raises a `UserError` where it does not fit, or gives no loss per sample."""
    targets = loss.prepare(train.targets, flat.dtype)
    x = preprocess(train.inputs[:samples].to(flat.device))
    with torch.no_grad():
        outputs = flat.forward(flat.initial(), x, "deterministic")
        few = targets[:samples].to(flat.device)
        loss.check(outputs, few, targets)
        loss.per_sample(outputs, few)
