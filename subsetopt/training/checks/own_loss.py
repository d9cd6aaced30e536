"""A loss given to a run as an object: what kinds a run takes, and that it fits model and data."""

from __future__ import annotations

from typing import Any

import torch

from subsetopt.data import Preprocess, Split
from subsetopt.errors import SettingError
from subsetopt.objective import FlatModel, Loss, make_loss
from subsetopt.objective.binding import CallsModel


def own_loss(loss: Any) -> Loss:
    """Return `loss`, a module of torch.nn or a function (outputs, targets), as a loss.

    Raises `SettingError` for a loss that calls the model: mini-batches, samplers and factors need its outputs.
    """
    kind = make_loss(loss)
    if isinstance(kind, CallsModel):
        raise SettingError(
            "loss",
            type(kind).__name__,
            "calls the model itself, and a run needs the model's outputs",
            "give it to Objective and minimize that, or give a loss(outputs, targets)",
        )
    return kind


def check_own_loss(loss: Loss, flat: FlatModel, train: Split, preprocess: Preprocess, samples: int) -> None:
    """Evaluate the loss on a few samples; raises a `UserError` where it does not fit, or gives no loss per sample."""
    targets = loss.prepare(train.targets, flat.dtype)
    x = preprocess(train.inputs[:samples].to(flat.device))
    with torch.no_grad():
        outputs = flat.forward(flat.initial(), x, "deterministic")
        few = targets[:samples].to(flat.device)
        loss.check(outputs, few, targets)
        loss.per_sample(outputs, few)
