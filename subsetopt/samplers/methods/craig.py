"""CRAIG: medoids of the gradients, each weighted by the number of samples in its cluster.

## What it does
After a warm-up on random subsets, and every `scan_period` epochs from then on, picks per class the rows whose gradients
are closest to all others (facility location, lazy greedy), weights each by the size of its cluster, and trains on these
in between.

## Formula
max over S, |S| = k_c, of sum_i max_{j in S} (c - ||g_i - g_j||), c at least the largest distance;
gamma_j = number of rows closest to j. g_i = p_i - y_i, the gradient with respect to the outputs, which bounds the
distances of whole gradients up to a constant factor (section 3.4 of the paper). A minibatch's loss is
sum gamma_i l_i / sum gamma_i.

## Settings
- `fraction` (0.1): size of the subset as a share of N, split over classes in proportion to their sizes.
- `scan_period` (20): epochs (of the subset) between selections.
- `warmup` (0.5): share of the training before the first selection, at least one epoch of the subset; 0: select at once.
- `total_steps` (None): batches of the whole training, known to a run; None: the warm-up is one epoch of the subset.
- `gradients` ("outputs"): "last-layer" takes g_i = (p_i - y_i) [h_i, 1]^T with the penultimate features h_i instead:
  ||g_i - g_j||^2 = G_ii + G_jj - 2 G_ij, G_ij = <e_i, e_j> (<h_i, h_j> + 1), dearer by a factor of 1 + D/M.
- `block_rows` (4096): larger classes are dealt at random into blocks of at most so many rows, each with its share of
  the picks, so that distances cost N x block_rows operations and 64 MB, not the square of a class.

## True cost
`fraction` epoch-equivalents per epoch, and one forward over all N samples per selection, and the distances:
2 M operations for each of the b_c rows of its block, for every row.

## Source
Mirzasoleiman, Bilmes and Leskovec 2020, "Coresets for data-efficient training of machine learning models",
arXiv 1906.01827; CORDS.

## Deviations from the official code
Rows are put in index order first (public code feeds a shuffling loader and finds 1.17 of 10 planted outliers, random
1.0), gains count all rows of the block (public code: the first batch only), and cluster sizes sum to the class size.
Picks that stand for no row (exact duplicates) are left out. The original has no blocks: set `block_rows` to the size of
the largest class for it. It selects before the first epoch, at random weights: set `warmup` to 0 for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from subsetopt.samplers.coreset import CoresetSampler, CoresetSettings, class_quotas
from subsetopt.samplers.draws import draw_permutation
from subsetopt.samplers.facility_location import facility_location_greedy
from subsetopt.samplers.factory import register
from subsetopt.samplers.last_layer import gram
from subsetopt.samplers.protocol import Batch, Scan
from subsetopt.settings import rows_of, setting


def gradient_similarity(e: Tensor, h: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """Return rows -> c - ||g_i - g_j|| `(len(rows), n)` for `e` `(n, M)` alone, or with features `h` `(n, D)`.

    c = 2 max ||g||, at least every distance by the triangle inequality; which c it is does not change the picks. All
    n^2 similarities are kept.
    """
    squares = e.square().sum(1) * (1 if h is None else h.square().sum(1) + 1)
    ceiling = 2 * squares.max().sqrt()

    def similarity(rows: Tensor) -> Tensor:
        products = e[rows] @ e.T if h is None else gram(e[rows], h[rows], e, h)
        distance = (squares[rows, None] + squares - 2 * products).clamp_min_(0).sqrt_()
        # Rounding leaves a distance from a row to itself that is comparable to that of close neighbours.
        distance[torch.arange(len(rows), device=e.device), rows] = 0
        return ceiling - distance

    dense = torch.cat([similarity(rows) for rows in torch.split(torch.arange(len(e), device=e.device), 1024)])
    return lambda rows: dense[rows]


@dataclass(frozen=True)
class CraigSettings(CoresetSettings):
    """See the method card."""

    gradients: Literal["outputs", "last-layer"] = "outputs"
    block_rows: int = setting(4096, at_least=2)


@register("craig", "coreset: per-class gradient medoids weighted by cluster size (CRAIG)")
class Craig(CoresetSampler):
    """Lazy greedy facility location per class."""

    Settings = CraigSettings
    settings: CraigSettings

    def choose(self, scan: Scan, validation: Scan | None) -> Batch:
        """Return the medoids of all classes and their cluster sizes."""
        s = self.settings
        indices, weights = [], []
        for rows, quota, scale in self._blocks_of(scan.targets):
            features = scan.features[rows].float() if s.gradients == "last-layer" else None
            similarity = gradient_similarity(scan.residuals[rows].float(), features)
            facilities = facility_location_greedy(similarity, len(rows), quota)
            standing = facilities.sizes > 0  # exact duplicates of an earlier pick stand for nobody
            indices.append(rows[facilities.selected[standing]])
            weights.append(facilities.sizes[standing].float() * scale)
        return Batch(torch.cat(indices), torch.cat(weights))

    def _blocks_of(self, targets: Tensor) -> Iterator[tuple[Tensor, int, float]]:
        """Yield (rows, quota, scale) of every class, or of the random blocks that it is dealt into; no quota is 0.

        Where a class has fewer picks than blocks, as many blocks stand for all, and `scale` makes up for the others.
        """
        for rows, quota in class_quotas(targets, rows_of(self.settings.fraction, self.n_samples)):
            blocks = math.ceil(len(rows) / self.settings.block_rows)
            if blocks > 1:
                order = draw_permutation(len(rows), len(rows), self.generator, rows.device)
                dealt = rows[order].tensor_split(blocks)[:quota]
            else:
                dealt = (rows,)
            scale = len(rows) / sum(len(block) for block in dealt)
            for part, block in enumerate(dealt):
                yield block, quota // len(dealt) + (part < quota % len(dealt)), scale
