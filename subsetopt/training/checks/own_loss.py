"""A loss given to a run as an object: what kinds a run takes, and that it fits model and data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from subsetopt.data import Dataset, Preprocess, Split
from subsetopt.errors import SettingError
from subsetopt.inputs import Inputs
from subsetopt.models import check_output_shape
from subsetopt.objective import FlatModel, Loss, ModelLoss, Residuals, make_loss
from subsetopt.objective.binding import CallsModel
from subsetopt.objective.module_call import InPlaceOfForward
from subsetopt.objective.torch_losses import ClassLoss, ElementLoss
from subsetopt.objective.weighting import WeightedLoss


def own_loss(loss: Any) -> Loss:
    """Return `loss`, a module of torch.nn, a function (outputs, targets) or (model, batch), as a loss.

    Raises `SettingError` for residuals, which are given as the data of a run.
    """
    if isinstance(loss, WeightedLoss):
        return loss
    kind = make_loss(loss)
    if isinstance(kind, CallsModel) and not isinstance(kind, ModelLoss):
        raise SettingError(
            "loss", type(kind).__name__, "has its own points", "give it as the data: SubsetTrainer(model, residuals)"
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


def fitted_outputs(model: nn.Module, dataset: Dataset, loss: str | Loss, few: Inputs) -> Dataset:
    """Return the data set with as many outputs as `model` has for a sample of `few`, where they are the loss's affair.

    That is a loss given as an object, and no classes: they want an output each. Raises `ModelError` for outputs that
    are no tensor of a row per sample, or of a wrong number.
    """
    if isinstance(loss, ElementLoss) and dataset.task == "classification" and not loss.takes_classes:
        raise SettingError(
            "loss",
            loss.kind,
            "compares outputs with targets of their shape, and these targets are classes",
            "give numbers: targets.float().unsqueeze(1) for one output, one-hot rows for several",
        )
    if isinstance(loss, ClassLoss) and dataset.task == "classification":
        _require_ignored_class(loss, dataset)
    if isinstance(loss, str) or dataset.task == "classification":
        check_output_shape(model, few, dataset.n_outputs)
        return dataset
    return replace(dataset, n_outputs=check_output_shape(model, few, None))


def _require_ignored_class(loss: ClassLoss, dataset: Dataset) -> None:
    """Raise `SettingError` where `ignore_index` means another class than its label: classes are numbered anew."""
    label, names = str(loss.ignore_index), dataset.class_names
    number = names.index(label) if label in names else None
    if number == loss.ignore_index:
        return
    value = f"{loss.kind}(ignore_index={label})"
    if number is not None:
        count = int((dataset.train.targets == number).sum())
        raise SettingError(
            "loss",
            value,
            f"{count} training labels are {label}, and a run counts what occurs as a class",
            f"leave these rows out, x[y != {label}]: they add nothing to the loss",
        )
    if 0 <= loss.ignore_index < len(names):
        raise SettingError(
            "loss",
            value,
            f"no label is {label}, and class number {label} is {names[loss.ignore_index]}",
            f"leave it out, or number the labels 0 to {len(names) - 1}",
        )


def check_own_loss(loss: Loss, flat: FlatModel, train: Split, preprocess: Preprocess, samples: int) -> None:
    """Evaluate the loss on a few samples; raises a `UserError` where it does not fit, or gives no loss per sample."""
    targets = loss.prepare(train.targets, flat.dtype)
    x = preprocess(train.inputs[:samples].to(flat.device))
    with torch.no_grad():
        outputs = flat.forward(flat.initial(), x, "deterministic")
        few = targets[:samples].to(flat.device)
        loss.check(outputs, few, targets)
        loss.per_sample(outputs, few)
