"""Images for the benchmarks: MNIST where it is at hand, random ones of the same shape where it is not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from subsetopt.data import load_dataset
from subsetopt.errors import DataError
from subsetopt.seeding import make_generator

CLASSES = 10


@dataclass(frozen=True)
class Images:
    """Standardised float32 images (n, channels, height, width), labels (n,), and where they are from."""

    name: str
    inputs: Tensor
    targets: Tensor


def mnist_images(samples: int, data_dir: str | Path | None = None) -> Images:
    """Return the first `samples` training images of MNIST, or `synthetic_images` where MNIST is not found."""
    try:
        data = load_dataset("mnist", data_dir=data_dir, validation_fraction=0.0)
    except DataError:
        return synthetic_images(samples)
    pixels = data.train.inputs[:samples].float()
    return Images("mnist", (pixels - pixels.mean()) / pixels.std(), data.train.targets[:samples])


def synthetic_images(samples: int, shape: tuple[int, ...] = (1, 28, 28)) -> Images:
    """Return noisy copies of ten random patterns: learnable, and of the cost of real images of that shape."""
    draw = make_generator(0, "bench/images")
    patterns = torch.randn(CLASSES, *shape, generator=draw)
    targets = torch.randint(0, CLASSES, (samples,), generator=draw)
    return Images("synthetic", 0.3 * patterns[targets] + torch.randn(samples, *shape, generator=draw), targets)
