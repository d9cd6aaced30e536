"""Small convolutional network in the manner of LeNet, smooth by default for the sake of second-order methods."""

from __future__ import annotations

from torch import nn

from subsetopt.errors import ModelError
from subsetopt.models.build import MODELS
from subsetopt.models.layers import (
    Activation,
    Pool,
    check_at_least,
    check_widths,
    image_shape,
    make_activation,
    make_pool,
)

LARGE_IMAGE = 16


@MODELS.register("cnn", "small smooth convolutional network for images of 8 x 8 pixels and more")
def cnn(
    in_shape: tuple[int, ...],
    n_outputs: int,
    *,
    widths: tuple[int, ...] = (8, 16),
    activation: Activation = "tanh",
    pool: Pool = "avg",
    kernel_size: int = 0,
) -> nn.Module:
    """Return one stage of convolution, activation and pooling per width, and a linear output layer.

    Images of 16 pixels and more get 5 x 5 kernels without padding, as LeNet has (fewer positions, so cheaper: on MNIST
    also more accurate than padded or strided ones); smaller images get padded 3 x 3 kernels. `kernel_size` = 0 means
    this choice of size. P = 5994 on MNIST. Raises `SettingError` for bad settings, `ModelError` for inputs that are not
    images or too small for the stages.
    """
    check_widths(widths)
    check_at_least("kernel_size", kernel_size, 0)
    channels, height, width = image_shape("cnn", in_shape, len(widths))
    large = min(height, width) >= LARGE_IMAGE
    kernel = kernel_size or (5 if large else 3)
    padding = 0 if large else kernel // 2
    layers: list[nn.Module] = []
    for n_filters in widths:
        layers += [
            nn.Conv2d(channels, n_filters, kernel, padding=padding),
            make_activation(activation),
            make_pool(pool),
        ]
        channels = n_filters
        height, width = ((side + 2 * padding - kernel + 1) // 2 for side in (height, width))
        if min(height, width) < 1:
            raise ModelError(
                f"model 'cnn' has {len(widths)} stages of {kernel} x {kernel} kernels, too many for images of shape "
                f"{in_shape}; give fewer --model-arg widths or a smaller kernel_size"
            )
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, n_outputs))
