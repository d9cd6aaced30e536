"""Repeated random subsets: every epoch a new subset, without replacement within the epoch.

## What it does
Each epoch draws floor(fraction N) distinct samples uniformly, independently of all earlier epochs.

## Formula
With r = floor(fraction N) / N: visits after T epochs ~ Binomial(T, r), coverage 1 - (1 - r)^T.

## Settings
- `fraction` (0.1): share of the samples per epoch.

## True cost
`fraction` epoch-equivalents per epoch; no selection.

## Source
Okanovic et al. 2023, "Repeated random sampling for minimizing the time-to-accuracy of learning", arXiv 2305.18424; the
"unif-SGD" of Arazo et al. 2021, arXiv 2110.14283.

## Deviations from the official code
None known. This is their variant with replacement between epochs; the variant that exhausts the data before it
reshuffles is `full` with a smaller budget.
"""

from __future__ import annotations

from typing import Any

from subsetopt.samplers.base import QueueSampler
from subsetopt.samplers.draws import draw_permutation
from subsetopt.samplers.factory import register
from subsetopt.samplers.protocol import Batch
from subsetopt.settings import FractionSettings, rows_of


@register("rs2", "a new random subset every epoch, without replacement within the epoch")
class RepeatedRandomSubset(QueueSampler):
    """Distinct uniform draws, redrawn every epoch."""

    Settings = FractionSettings
    settings: FractionSettings
    unbiased = True

    def __init__(self, n_samples: int, *rest: Any) -> None:
        super().__init__(n_samples, *rest)
        self.epoch_rows = rows_of(self.settings.fraction, n_samples)

    def draw_block(self) -> Batch:
        """Return distinct uniform draws."""
        return Batch(draw_permutation(self.n_samples, self.epoch_rows, self.generator, self.device))
