"""Convolutional network on sequences: signals, sensor channels, rows of an image."""

from __future__ import annotations

import math

from torch import nn

from subsetopt.errors import ModelError
from subsetopt.models.build import MODELS
from subsetopt.models.layers import Activation, check_at_least, check_widths, make_activation


@MODELS.register("cnn1d", "convolutions along sequences of shape (length,) or (channels, length)")
def cnn1d(
    in_shape: tuple[int, ...],
    n_outputs: int,
    *,
    widths: tuple[int, ...] = (8, 16),
    activation: Activation = "tanh",
    kernel_size: int = 5,
) -> nn.Module:
    """Return one stage of convolution, activation and average pooling by 2 per width, and a linear output layer.

    The last axis of inputs is the sequence, all others are channels. Kernels are padded, and stages without a position
    left to pool do not pool. Raises `SettingError` for bad settings and `ModelError` for inputs without an axis.
    """
    check_widths(widths)
    check_at_least("kernel_size", kernel_size, 1)
    if not in_shape:
        raise ModelError("model 'cnn1d' needs sequences, inputs have no axis; use another model")
    channels, length = math.prod(in_shape[:-1]), in_shape[-1]
    layers: list[nn.Module] = [nn.Flatten(1), nn.Unflatten(1, (channels, length))]
    for n_filters in widths:
        layers += [nn.Conv1d(channels, n_filters, kernel_size, padding="same"), make_activation(activation)]
        channels = n_filters
        if length > 1:
            layers.append(nn.AvgPool1d(2))
            length //= 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * length, n_outputs))
