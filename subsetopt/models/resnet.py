"""CIFAR ResNet of He, Zhang, Ren and Sun 2016 (section 4.2): 6n + 2 layers, shortcuts without parameters (option A)."""

from __future__ import annotations

import math
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from subsetopt.errors import SettingError
from subsetopt.models.build import MODELS
from subsetopt.models.layers import Activation, check_at_least, image_shape, initialise_he, make_activation

Norm = Literal["batch", "group"]
HALVINGS = 2


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut; where channels grow, the shortcut subsamples and pads with zeros."""

    def __init__(self, channels: int, n_filters: int, stride: int, activation: Activation, norm: Norm) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, n_filters, 3, stride=stride, padding=1, bias=False)
        self.first_norm = make_norm(norm, n_filters)
        self.second = nn.Conv2d(n_filters, n_filters, 3, padding=1, bias=False)
        self.second_norm = make_norm(norm, n_filters)
        self.activation = make_activation(activation)
        self.stride = stride
        self.new_channels = n_filters - channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, channels, H, W) to (n, n_filters, H / stride, W / stride)."""
        residual = self.second_norm(self.second(self.activation(self.first_norm(self.first(x)))))
        before = self.new_channels // 2
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before))
        output: Tensor = self.activation(residual + shortcut)
        return output


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Return BatchNorm, or GroupNorm with up to 8 groups, which treats every sample alone."""
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(math.gcd(8, channels), channels)


@MODELS.register("resnet", "CIFAR ResNet of He et al. with 6n + 2 layers")
def resnet(
    in_shape: tuple[int, ...],
    n_outputs: int,
    *,
    depth: int = 8,
    width: int = 16,
    activation: Activation = "relu",
    norm: Norm = "batch",
) -> nn.Module:
    """Return a convolution, three stages of (depth - 2) / 6 blocks with width, 2 width, 4 width filters, and a head.

    P = 269 722 at depth 20 on 3 x 32 x 32 images with 10 outputs, the published 0.27M. Raises `SettingError` for a
    depth that is not 6n + 2 or a width below 1, `ModelError` for inputs that are not images of at least 4 x 4 pixels.
    """
    if depth < 8 or depth % 6 != 2:
        raise SettingError("depth", depth, "is not 6n + 2", "give 8, 14, 20, 32, 44 or 56")
    check_at_least("width", width, 1)
    channels, _, _ = image_shape("resnet", in_shape, HALVINGS)
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=False), make_norm(norm, width)]
    layers.append(make_activation(activation))
    channels = width
    for stage in range(3):
        for block in range((depth - 2) // 6):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(BasicBlock(channels, width << stage, stride, activation, norm))
            channels = width << stage
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, n_outputs))
    initialise_he(model)
    return model
