"""Every sample once per epoch, in a new random order.

## What it does
The reference that all others are compared with: each epoch is a fresh permutation of all N samples.

## Formula
Visits after T epochs: T for every sample. Coverage after one epoch: 1.

## Settings
None.

## True cost
One epoch-equivalent per epoch; no selection.

## Source
Textbook stochastic gradient descent without replacement (random reshuffling).

## Deviations from the official code
None.
"""

from __future__ import annotations

from subsetopt.samplers.base import QueueSampler
from subsetopt.samplers.draws import draw_permutation
from subsetopt.samplers.factory import register
from subsetopt.samplers.protocol import Batch
from subsetopt.settings import NoSettings


@register("full", "all samples, reshuffled every epoch")
class Full(QueueSampler):
    """Random reshuffling of all samples."""

    Settings = NoSettings
    unbiased = True

    def draw_block(self) -> Batch:
        """Return a permutation of all samples."""
        return Batch(draw_permutation(self.n_samples, self.n_samples, self.generator, self.device))
