"""What the models of the zoo share: activations, checks of shapes and settings, initialisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from subsetopt.errors import ModelError, SettingError

Activation = Literal["tanh", "softplus", "gelu", "silu", "relu"]
Pool = Literal["avg", "max"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "relu": nn.ReLU,
}
_POOLS: dict[str, type[nn.Module]] = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}


def make_activation(name: Activation) -> nn.Module:
    """Return a new activation module."""
    return _ACTIVATIONS[name]()


def make_pool(name: Pool) -> nn.Module:
    """Return a new pooling module that halves height and width."""
    return _POOLS[name](2)


def check_widths(widths: Sequence[int]) -> None:
    """Raise `SettingError` unless there is at least one width and all are at least 1."""
    if not widths or min(widths) < 1:
        raise SettingError("widths", widths, "needs whole numbers of at least 1", "give for example 64,32")


def check_at_least(setting: str, value: int, least: int) -> None:
    """Raise `SettingError` unless `value` is at least `least`."""
    if value < least:
        raise SettingError(setting, value, f"is less than {least}", f"give at least {least}")


def image_shape(model: str, in_shape: tuple[int, ...], halvings: int) -> tuple[int, int, int]:
    """Return (C, H, W); raises `ModelError` unless it is one of images that can be halved that many times."""
    if len(in_shape) != 3:
        raise ModelError(
            f"model {model!r} needs images (C, H, W) but the inputs have shape {in_shape}; use --model mlp"
        )
    least = 2**halvings
    if in_shape[2] in (1, 3, 4) and min(in_shape[:2]) > in_shape[2]:
        raise ModelError(
            f"model {model!r} needs images (C, H, W) but the inputs have shape {in_shape}, channels last; give them "
            "as x.transpose(0, 3, 1, 2)"
        )
    if min(in_shape[1:]) < least:
        raise ModelError(
            f"model {model!r} needs images of at least {least} x {least} pixels but these have shape {in_shape}; use "
            "--model mlp, or fewer stages"
        )
    return in_shape


def initialise_he(model: nn.Module) -> None:
    """Draw convolutions from N(0, 2 / fan_in) with zero biases (He et al. 2015), the scale that ReLU-like nets need."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
