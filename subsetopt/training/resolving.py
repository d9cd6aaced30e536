"""What `auto` means for a device, a loss and a model, and which of them do not fit the data."""

from __future__ import annotations

import torch

from subsetopt.data import Dataset
from subsetopt.errors import SettingError, setting


def resolve_device(name: str, dtype: str) -> torch.device:
    """Return the device to compute on; raises `SettingError` when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name]:
        raise SettingError(
            "device", name, "this machine has none that torch can use", f"use {setting('device', 'cpu')}"
        )
    if name == "mps" and dtype == "float64":
        raise SettingError(
            "device", name, "it has no float64", f"use {setting('dtype', 'float32')}, or {setting('device', 'cpu')}"
        )
    return torch.device(name)


def resolve_loss(name: str, dataset: Dataset) -> str:
    """Return the loss that fits the task; raises `SettingError` when the one asked for does not."""
    fitting = "cross_entropy" if dataset.task == "classification" else "mse"
    if dataset.task == "regression" and not dataset.train.targets.is_floating_point():
        shape = ", ".join(map(str, ("n", *dataset.train.targets.shape[1:])))
        raise SettingError(
            "loss",
            name,
            f"the targets are whole numbers of shape ({shape})",
            f"for quantities use {setting('task', 'regression')}; for labels of each position (tokens, pixels) or "
            "several labels give a module of torch.nn in Python: SubsetTrainer(..., loss=nn.CrossEntropyLoss())",
        )
    if name in ("auto", fitting):
        return fitting
    other = "regression" if dataset.task == "classification" else "classification"
    remedy = f"use {setting('loss', fitting)}, or {setting('task', other)} if that is what the targets mean"
    raise SettingError("loss", name, f"{dataset.name} is a {dataset.task} data set", remedy)


def resolve_model(name: str, dataset: Dataset) -> str:
    """Return the model meant by `auto`: a small CNN for images of 16 pixels or more, else an MLP."""
    if name != "auto":
        return name
    images = not isinstance(dataset.in_shape, dict) and len(dataset.in_shape) == 3 and min(dataset.in_shape[1:]) >= 16
    return "cnn" if images else "mlp"
