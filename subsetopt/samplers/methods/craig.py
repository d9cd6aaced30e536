"""CRAIG: medoids of the gradients, each weighted by the number of samples in its cluster.

## What it does
Every `scan_period` epochs, picks per class the rows whose last-layer gradients are closest to all others (facility
location, lazy greedy), weights each by the size of its cluster, and trains on these in between.

## Formula
max over S, |S| = k_c, of sum_i max_{j in S} (c - ||g_i - g_j||), c at least the largest distance;
gamma_j = number of rows closest to j. ||g_i - g_j||^2 = G_ii + G_jj - 2 G_ij with the Gram matrix
G_ij = <e_i, e_j> (<h_i, h_j> + 1). A minibatch's loss is sum gamma_i l_i / sum gamma_i.

## Settings
- `fraction` (0.1): size of the subset as a share of N, split over classes in proportion to their sizes.
- `scan_period` (20): epochs (of the subset) between selections.
- `dense_rows` (8192): classes up to this size keep their n_c^2 distances (256 MB at 8192); larger ones compute them
  again whenever they are needed.

## True cost
`fraction` epoch-equivalents per epoch, and one forward over all N samples per selection. Greedy needs O(n_c^2 (M + D))
operations per class.

## Source
Mirzasoleiman, Bilmes and Leskovec 2020, "Coresets for data-efficient training of machine learning models",
arXiv 1906.01827; CORDS.

## Deviations from the official code
Rows are put in index order first (public code feeds a shuffling loader and finds 1.17 of 10 planted outliers, random
1.0), gains count all rows of the class (public code: the first batch only), and cluster sizes sum to the class size.
Picks that stand for no row (exact duplicates) are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from subsetopt.samplers.coreset import CoresetSampler, class_quotas
from subsetopt.samplers.facility_location import facility_location_greedy
from subsetopt.samplers.factory import register
from subsetopt.samplers.last_layer import gram
from subsetopt.samplers.protocol import Batch, Scan
from subsetopt.settings import check_count, check_fraction, rows_of


def gradient_similarity(e: Tensor, h: Tensor, dense_rows: int) -> Callable[[Tensor], Tensor]:
    """Return rows -> c - ||g_i - g_j|| `(len(rows), n)` for `e` `(n, M)`, `h` `(n, D)`.

    c = 2 max ||g||, at least every distance by the triangle inequality; which c it is does not change the picks.
    """
    squares = e.square().sum(1) * (h.square().sum(1) + 1)
    ceiling = 2 * squares.max().sqrt()

    def similarity(rows: Tensor) -> Tensor:
        squared = squares[rows, None] + squares - 2 * gram(e[rows], h[rows], e, h)
        distance = squared.clamp_min_(0).sqrt_()
        # Rounding leaves a distance from a row to itself that is comparable to that of close neighbours.
        distance[torch.arange(len(rows), device=e.device), rows.to(e.device)] = 0
        return ceiling - distance

    if len(e) > dense_rows:
        return similarity
    dense = torch.cat([similarity(rows) for rows in torch.split(torch.arange(len(e), device=e.device), 1024)])
    return lambda rows: dense[rows]


@dataclass(frozen=True)
class CraigSettings:
    """See the method card."""

    fraction: float = 0.1
    scan_period: int = 20
    dense_rows: int = 8192

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        check_count("scan_period", self.scan_period)
        check_count("dense_rows", self.dense_rows, least=0)


@register("craig", "coreset: per-class gradient medoids weighted by cluster size (CRAIG)")
class Craig(CoresetSampler):
    """Lazy greedy facility location per class."""

    Settings = CraigSettings
    settings: CraigSettings

    def choose(self, scan: Scan, validation: Scan | None) -> Batch:
        """Return the medoids of all classes and their cluster sizes."""
        indices, weights = [], []
        for rows, quota in class_quotas(scan.targets, rows_of(self.settings.fraction, self.n_samples)):
            similarity = gradient_similarity(
                scan.residuals[rows].float(), scan.features[rows].float(), self.settings.dense_rows
            )
            facilities = facility_location_greedy(similarity, len(rows), quota)
            standing = facilities.sizes > 0  # exact duplicates of an earlier pick stand for nobody
            indices.append(rows[facilities.selected[standing]])
            weights.append(facilities.sizes[standing].float())
        return Batch(torch.cat(indices), torch.cat(weights))
