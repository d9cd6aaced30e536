"""Soft random sampling: every epoch independent uniform draws *with* replacement.

## What it does
Each epoch draws m = floor(fraction N) samples uniformly with replacement; a sample may come twice in one epoch.

## Formula
Visits after T epochs ~ Binomial(mT, 1/N), nearly Poisson(rT) with r = m / N; coverage 1 - (1 - 1/N)^{mT}, nearly
1 - exp(-rT); distinct share of one epoch 1 - exp(-r); expected epochs until all are seen about (ln N + 0.577) / r.

## Settings
- `fraction` (0.1): draws per epoch as a share of N.

## True cost
`fraction` epoch-equivalents per epoch; no selection.

## Source
Cui et al. 2023, "Soft random sampling: a theoretical and empirical analysis", arXiv 2311.12727.

## Deviations from the official code
Their code was not at hand; the paper's sampling scheme determines the sampler.
"""

from __future__ import annotations

from typing import Any

import torch

from subsetopt.devices import moved
from subsetopt.samplers.base import QueueSampler
from subsetopt.samplers.factory import register
from subsetopt.samplers.protocol import Batch
from subsetopt.settings import FractionSettings, rows_of


@register("srs", "soft random sampling: uniform with replacement, redrawn every epoch")
class SoftRandomSampling(QueueSampler):
    """Independent uniform draws."""

    Settings = FractionSettings
    settings: FractionSettings
    unbiased = True

    def __init__(self, n_samples: int, *rest: Any) -> None:
        super().__init__(n_samples, *rest)
        self.epoch_rows = rows_of(self.settings.fraction, n_samples)

    def draw_block(self) -> Batch:
        """Return independent uniform draws."""
        draws = torch.randint(self.n_samples, (self.epoch_rows,), generator=self.generator)
        return Batch(moved(draws, self.device))
