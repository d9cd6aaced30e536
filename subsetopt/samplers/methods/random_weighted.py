"""A random weighted subset: what a coreset is without its choice, the control of CRAIG and GradMatch.

## What it does
Draws a random subset, gives each of its rows the weight that a cluster of random size would have, trains on it, and
draws another one every `scan_period` epochs, as often as a coreset selects.

## Formula
Each of the N - k rows that are not chosen, k = floor(fraction N), is dealt to a chosen one at random, and w_j = 1 + the
rows dealt to j: the weights of CRAIG, cluster sizes, without its distances; w - 1 ~ Multinomial(N - k, 1/k). A
minibatch's loss is sum w_i l_i / sum w_i.

## Settings
- `fraction` (0.1): size of the subset as a share of N.
- `scan_period` (20): epochs (of the subset) between draws.

## True cost
`fraction` epoch-equivalents per epoch; no selection.

## Source
The random baseline of Mirzasoleiman, Bilmes and Leskovec 2020, arXiv 1906.01827, and of Killamsetty et al. 2021, arXiv
2103.00123, with weights.

## Deviations from the official code
Public baselines have equal weights, which a normalised loss does not notice: `fixed-subset` is that. Random cluster
sizes are ours, so that what weights alone do can be seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsetopt.devices import moved
from subsetopt.samplers.base import QueueSampler
from subsetopt.samplers.draws import draw_permutation
from subsetopt.samplers.factory import register
from subsetopt.samplers.protocol import Batch
from subsetopt.settings import CheckedSettings, rows_of, setting


@dataclass(frozen=True)
class RandomWeightedSettings(CheckedSettings):
    """See the method card."""

    fraction: float = setting(0.1, above=0, at_most=1)
    scan_period: int = setting(20, at_least=1)


@register("random-weighted", "a random subset with random cluster sizes as weights, redrawn every 20 epochs")
class RandomWeighted(QueueSampler):
    """A subset and its weights, redrawn now and then; weights are scaled to mean one in every batch."""

    Settings = RandomWeightedSettings
    settings: RandomWeightedSettings
    persistent = ("subset", "subset_weights")

    def __init__(self, n_samples: int, batch_size: int, seed: int, device: torch.device, *rest: Any) -> None:
        super().__init__(n_samples, batch_size, seed, device, *rest)
        self.epoch_rows = rows_of(self.settings.fraction, n_samples)
        self.normalise_batches = True
        self.subset: Tensor = torch.empty(0, dtype=torch.int64, device=device)
        self.subset_weights: Tensor = torch.empty(0, device=device)

    def draw_block(self) -> Batch:
        """Return the subset in a new order; another one every `scan_period` epochs."""
        if self._blocks % self.settings.scan_period == 0:
            self.subset = draw_permutation(self.n_samples, self.epoch_rows, self.generator, self.device)
            others = (self.n_samples - self.epoch_rows,)
            dealt = torch.randint(self.epoch_rows, others, generator=self.generator, device="cpu")
            sizes = 1 + torch.bincount(dealt, minlength=self.epoch_rows)
            self.subset_weights = moved(sizes.float(), self.device)
        order = draw_permutation(self.epoch_rows, self.epoch_rows, self.generator, self.device)
        return Batch(self.subset[order], self.subset_weights[order])
