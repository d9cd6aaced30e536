"""One random subset, drawn once and kept: the data of a subset minimum, under a first-order method.

## What it does
Draws floor(fraction N) distinct samples before the first step and reshuffles the same ones every epoch.

## Formula
Coverage stays at r = fraction; a sample is visited T times in T epochs, or never.

## Settings
- `fraction` (0.1): share of the samples in the subset.

## True cost
`fraction` epoch-equivalents per epoch; no selection.

## Source
The static random baseline of the coreset literature, e.g. Guo, Zhao and Bai 2022 (DeepCore), arXiv 2204.08499.

## Deviations from the official code
The subset depends on the seed of the sampler and so differs between repeats; public code often shares one selection
seed among all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from subsetopt.samplers.base import QueueSampler
from subsetopt.samplers.draws import draw_permutation
from subsetopt.samplers.factory import register
from subsetopt.samplers.protocol import Batch
from subsetopt.settings import FractionSettings, rows_of


@register("fixed-subset", "one random subset, drawn once, reshuffled every epoch")
class FixedSubset(QueueSampler):
    """A subset drawn once from the sampler's own stream."""

    Settings = FractionSettings
    settings: FractionSettings
    persistent = ("subset",)

    def __init__(self, n_samples: int, batch_size: int, seed: int, device: torch.device, *rest: Any) -> None:
        super().__init__(n_samples, batch_size, seed, device, *rest)
        self.epoch_rows = rows_of(self.settings.fraction, n_samples)
        self.subset: Tensor = draw_permutation(n_samples, self.epoch_rows, self.generator, device)
        self.unbiased = self.epoch_rows == n_samples

    def draw_block(self) -> Batch:
        """Return the subset in a new order."""
        return Batch(self.subset[draw_permutation(self.epoch_rows, self.epoch_rows, self.generator, self.device)])
