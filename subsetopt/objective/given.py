"""What an objective may be given: model, data and loss, brought to the forms that it works with, or refused."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from subsetopt.arguments import kind_of, require_device, require_module
from subsetopt.data import as_batches, as_samples
from subsetopt.errors import DataError, SettingError
from subsetopt.inputs import Stored, as_inputs
from subsetopt.objective.binding import CallsModel
from subsetopt.objective.chunks import Preprocess
from subsetopt.objective.flat_model import FlatModel
from subsetopt.objective.losses import Loss


def samples_of(inputs: object, targets: Tensor | None, loss: Loss) -> tuple[Stored, Tensor | None]:
    """Return inputs and targets, read from a data set or loader where no targets are given beside it."""
    if targets is None and isinstance(loss, CallsModel):
        return as_batches(inputs), None
    if targets is None and not isinstance(inputs, Tensor):
        return as_samples(inputs)
    if not isinstance(targets, Tensor):
        raise DataError(f"targets: is {kind_of(targets)}, needs a tensor; torch.as_tensor makes one of an array")
    return as_inputs(inputs), targets


def require_kinds(model: object, preprocess: object, device: object, dtype: object) -> None:
    if not isinstance(model, FlatModel):
        require_module("model", model)
    if preprocess is not None and (isinstance(preprocess, type) or not callable(preprocess)):
        raise SettingError("preprocess", preprocess, f"is {kind_of(preprocess)}", "give a function of the inputs")
    if device is not None:
        require_device("device", device)
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise SettingError("dtype", dtype, f"is {kind_of(dtype)}", "give torch.float32 or torch.float64")


def bound_to(
    flat: FlatModel, loss: Loss, inputs: Stored, targets: Tensor | None, preprocess: Preprocess | None
) -> tuple[FlatModel, Stored, Tensor, Preprocess | None]:
    """Return model, inputs, targets and preprocess as used: a loss that calls the model is evaluated in its place."""
    if isinstance(loss, CallsModel):
        binding = loss.bind(inputs, targets, preprocess)
        return flat.evaluated_by(binding.function), binding.inputs, binding.targets, binding.preprocess
    assert targets is not None, "no other loss goes without targets"
    return flat, flat.fitting(inputs, preprocess), targets, preprocess


def flat_model_of(
    model: nn.Module | FlatModel, dtype: torch.dtype | None, device: torch.device | str | None
) -> FlatModel:
    if not isinstance(model, FlatModel):
        return FlatModel(model, dtype, device)
    if dtype not in (None, model.dtype):
        raise SettingError("dtype", dtype, f"the FlatModel given has {model.dtype}", "leave dtype out")
    if device is not None and torch.device(device).type != model.device.type:
        raise SettingError("device", str(device), f"the FlatModel given is on {model.device}", "leave device out")
    return model
