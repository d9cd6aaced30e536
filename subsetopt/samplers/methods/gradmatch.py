"""GradMatch: a weighted subset whose last-layer gradients add up to those of all data.

## What it does
After a warm-up on random subsets, and every `scan_period` epochs from then on, matches per class the sum of the
last-layer gradients by a few of them with non-negative weights, and trains on these in between.

## Formula
Per class with gradients g_i = (p_i - y_i) [h_i, 1]^T: min over S, |S| <= k_c, w >= 0 of
||sum_i g_i - sum_{i in S} w_i g_i||^2 + lambda ||w||^2 by orthogonal matching pursuit with non-negative refits. A
minibatch's loss is sum w_i l_i / sum w_i.

## Settings
- `fraction` (0.1): size of the subset as a share of N, split over classes in proportion to their sizes.
- `scan_period` (20): epochs (of the subset) between selections.
- `warmup` (0.5): share of the training before the first selection, at least one epoch of the subset; 0: select at once.
- `total_steps` (None): batches of the whole training, known to a run; None: the warm-up is one epoch of the subset.
- `ridge` (1e-3): lambda, relative to the mean squared gradient norm of the class.

## True cost
`fraction` epoch-equivalents per epoch, and one forward over all N samples per selection (a third of an
epoch-equivalent at three forwards per gradient), which at 10 % and the default period adds a sixth. Matching takes
O(n_c k_c (D + k_c)) operations and O(n_c k_c) memory per class.

## Source
Killamsetty et al. 2021, "GRAD-MATCH: gradient matching based data subset selection", arXiv 2103.00123; CORDS.

## Deviations from the official code
Gram form with exact non-negative refits: CORDS lets weights and indices drift apart after a repeated pick and refills
missing picks with weight 1 beside weights that sum to N; here there are fewer rows instead. The whole last-layer
gradient is matched (CORDS, "PerClassPerGradient": of each class its own output's row alone), and the ridge is relative
(CORDS: 0.5, absolute). Classes are mixed in every batch. Random subsets before the first selection are redrawn every
epoch; CORDS keeps the first one, and its warm variant trains on all data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from subsetopt.samplers.coreset import CoresetSampler, CoresetSettings, class_quotas
from subsetopt.samplers.factory import register
from subsetopt.samplers.last_layer import gram, inner_with
from subsetopt.samplers.omp import Matching, Vector, omp_nonnegative
from subsetopt.samplers.protocol import Batch, Scan
from subsetopt.settings import rows_of, setting


def match_gradient_sum(e: Tensor, h: Tensor, k: int, ridge: float) -> Matching:
    """Return rows and weights w >= 0 with sum w_i g_i close to the sum of g over `e` `(n, M)`, `h` `(n, D)`.

    Gram columns are made when they are picked: `(n, k)` instead of `(n, n)` numbers. `ridge` is relative to the mean of
    ||g_i||^2.
    """
    norms = e.square().sum(1) * (h.square().sum(1) + 1)
    correlation = _host(inner_with(e, h, e.T @ h, e.sum(0)))

    def column(i: int) -> Vector:
        return _host(gram(e, h, e[i : i + 1], h[i : i + 1])[:, 0])

    return omp_nonnegative(column, correlation, k, ridge * float(norms.mean()))


def _host(values: Tensor) -> Vector:
    return values.cpu().numpy().astype(np.float64)


@dataclass(frozen=True)
class GradMatchSettings(CoresetSettings):
    """See the method card."""

    ridge: float = setting(1e-3, at_least=0)


@register("gradmatch", "coreset: per-class matching of last-layer gradient sums, with weights (GradMatch)")
class GradMatch(CoresetSampler):
    """Non-negative matching pursuit per class."""

    Settings = GradMatchSettings
    settings: GradMatchSettings

    def choose(self, scan: Scan, validation: Scan | None) -> Batch:
        """Return the matched rows of all classes and their weights."""
        indices, weights = [], []
        for rows, quota in class_quotas(scan.targets, rows_of(self.settings.fraction, self.n_samples)):
            e, h = scan.residuals[rows].float(), scan.features[rows].float()
            matching = match_gradient_sum(e, h, quota, self.settings.ridge)
            indices.append(rows[torch.from_numpy(matching.support).to(rows.device)])
            weights.append(torch.from_numpy(matching.weights.astype(np.float32)).to(rows.device))
        return Batch(torch.cat(indices), torch.cat(weights))
