"""Small VGG-style network: blocks of 3 x 3 convolutions with pooling between them (Simonyan and Zisserman 2015)."""

from __future__ import annotations

from torch import nn

from subsetopt.models.build import MODELS
from subsetopt.models.layers import (
    Activation,
    Pool,
    check_at_least,
    check_widths,
    image_shape,
    initialise_he,
    make_activation,
    make_pool,
)


@MODELS.register("vgg", "small VGG-style network, BatchNorm optional")
def vgg(
    in_shape: tuple[int, ...],
    n_outputs: int,
    *,
    widths: tuple[int, ...] = (8, 16, 32),
    convolutions: int = 2,
    activation: Activation = "relu",
    pool: Pool = "max",
    batch_norm: bool = False,
) -> nn.Module:
    """Return one block per width, each of `convolutions` padded 3 x 3 convolutions and a pooling, and a linear layer.

    P = 23 314 on 3 x 32 x 32 images with 10 outputs, so Q > 1 from 2332 samples on. Raises `SettingError` for bad
    settings, `ModelError` for inputs that are not images or too small for the blocks.
    """
    check_widths(widths)
    check_at_least("convolutions", convolutions, 1)
    channels, height, width = image_shape("vgg", in_shape, len(widths))
    layers: list[nn.Module] = []
    for n_filters in widths:
        for _ in range(convolutions):
            layers.append(nn.Conv2d(channels, n_filters, 3, padding=1, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(n_filters))
            layers.append(make_activation(activation))
            channels = n_filters
        layers.append(make_pool(pool))
        height, width = height // 2, width // 2
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, n_outputs))
    initialise_he(model)
    return model
