"""Keep a random part of every batch: the baseline that batch selection has to beat at equal cost.

## What it does
Walks through a random permutation in batches of B and trains on k = floor(fraction B) random rows of each. Each epoch
has as many steps as `full`, with batches of at most k rows.

## Formula
Every batch is a uniform subset of its candidates, so E[batch gradient] is the full gradient. A random k of B
consecutive rows of a permutation are distributed as k consecutive rows, which is how they are drawn.

## Settings
- `fraction` (0.25): share q of each batch that is kept.

## True cost
`fraction` epoch-equivalents per epoch (3 q B forwards per step, at three forwards per gradient): no selection forward.

## Source
The random baseline of Balles, Archambeau and Zappella 2023, arXiv 2312.05021.

## Deviations from the official code
Reconstruction: their code was not at hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from subsetopt.samplers.base import QueueSampler
from subsetopt.samplers.draws import draw_permutation
from subsetopt.samplers.factory import register
from subsetopt.samplers.protocol import Batch
from subsetopt.settings import CheckedSettings, rows_of, setting


@dataclass(frozen=True)
class RandomMinibatchSettings(CheckedSettings):
    """`fraction` is the share of each batch that is kept."""

    fraction: float = setting(0.25, above=0, at_most=1)


@register("random-minibatch", "a random part of every batch, without a selection forward")
class RandomMinibatch(QueueSampler):
    """k of each B rows of a permutation."""

    Settings = RandomMinibatchSettings
    settings: RandomMinibatchSettings
    unbiased = True

    def __init__(self, n_samples: int, batch_size: int, *rest: Any) -> None:
        super().__init__(n_samples, batch_size, *rest)
        self.rows_per_proposal = rows_of(self.settings.fraction, batch_size)
        batches, short = divmod(n_samples, batch_size)
        last = rows_of(self.settings.fraction, short) if short else 0
        self.epoch_rows = batches * self.rows_per_proposal + last

    def draw_block(self) -> Batch:
        """Return the kept rows of an epoch, batch after batch."""
        return Batch(draw_permutation(self.n_samples, self.epoch_rows, self.generator, self.device))
