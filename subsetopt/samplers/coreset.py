"""What the coreset methods share: a subset with weights that is re-selected from a scan of the data now and then.

Last-layer gradients at random weights say nothing of the samples, so the first scan follows a warm-up on random
subsets, by default half of the training as in the warm variants of CORDS (kappa = 1/2 in arXiv 2103.00123). These train
it on all data; random subsets that are redrawn every epoch come to the same and stop anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsetopt.samplers.base import QueueSampler
from subsetopt.samplers.draws import draw_permutation
from subsetopt.samplers.last_layer import in_index_order
from subsetopt.samplers.protocol import Batch, Scan
from subsetopt.settings import CheckedSettings, rows_of, setting


@dataclass(frozen=True)
class CoresetSettings(CheckedSettings):
    """What all coreset methods can be told; see their cards."""

    fraction: float = setting(0.1, above=0, at_most=1)
    scan_period: int = setting(20, at_least=1)
    warmup: float = setting(0.5, at_least=0, at_most=1)
    total_steps: int | None = setting(None, at_least=1)


def class_quotas(targets: Tensor, k: int) -> Iterator[tuple[Tensor, int]]:
    """Yield (rows, quota) per class, quotas in proportion to class sizes and summing to `k` (largest remainders)."""
    classes, counts = torch.unique(targets, return_counts=True)
    exact = counts.double().cpu() * k / len(targets)
    quotas = exact.floor().long()
    short = k - int(quotas.sum())
    quotas[(exact - quotas).argsort(descending=True, stable=True)[:short]] += 1
    for label, quota in zip(classes, quotas.tolist(), strict=True):
        if quota:
            yield (targets == label).nonzero()[:, 0], quota


class CoresetSampler(QueueSampler):
    """Trains on a weighted subset, reshuffled every epoch; `choose` re-selects it when the loop brings a scan.

    Until the first scan the subset is random, another one every epoch. Weights are scaled to mean one in every batch:
    sum w l / sum w.
    """

    settings: CoresetSettings
    needs_scan = True
    persistent = ("subset", "subset_weights", "scans", "_scanned_block")

    def __init__(self, n_samples: int, batch_size: int, seed: int, device: torch.device, *rest: Any) -> None:
        super().__init__(n_samples, batch_size, seed, device, *rest)
        self.scan_period = self.settings.scan_period
        self.epoch_rows = rows_of(self.settings.fraction, n_samples)
        self.normalise_batches = True
        self.subset = draw_permutation(n_samples, self.epoch_rows, self.generator, device)
        self.subset_weights: Tensor | None = None
        self.scans = 0
        self._scanned_block = -1

    def choose(self, scan: Scan, validation: Scan | None) -> Batch:
        """Return at most floor(fraction N) rows, and weights, from a scan in index order."""
        raise NotImplementedError

    @property
    def warm_epochs(self) -> int:
        """Epochs of the subset before the first scan: the share `warmup` of the training, one if its length is unknown.

        A warm-up above 0 has at least one epoch, and leaves one to train on what is selected.
        """
        share, total = self.settings.warmup, self.settings.total_steps
        if share == 0:
            return 0
        if total is None:
            return 1
        epochs = total / self._steps(rows_of(self.settings.fraction, self.n_samples))
        return max(1, min(math.floor(share * epochs), math.ceil(epochs) - 1))

    @property
    def scan_due(self) -> bool:
        """True after the warm-up and whenever `scan_period` epochs are done since then."""
        since = self._blocks - self.warm_epochs
        due = since >= 0 and since % self.settings.scan_period == 0
        return self._exhausted and due and self._scanned_block != self._blocks

    def refresh(self, scan: Scan, validation: Scan | None = None) -> None:
        """Re-select; a scan may come in any order if it names its indices. An empty choice keeps the old subset."""
        chosen = self.choose(in_index_order(scan, self.n_samples), validation)
        if len(chosen.indices):
            self.subset = chosen.indices.to(self.device)
            self.subset_weights = None if chosen.weights is None else chosen.weights.to(self.device)
            self.epoch_rows = len(self.subset)
        self.scans += 1
        self._scanned_block = self._blocks

    def draw_block(self) -> Batch:
        """Return the subset in a new order, classes mixed; before the first scan a new random one."""
        if not self.scans and self._blocks:
            self.subset = draw_permutation(self.n_samples, self.epoch_rows, self.generator, self.device)
        order = draw_permutation(len(self.subset), len(self.subset), self.generator, self.device)
        weights = None if self.subset_weights is None else self.subset_weights[order]
        return Batch(self.subset[order], weights)

    def statistics(self) -> dict[str, Any]:
        """Return the common statistics and the number of scans, each charged by the loop."""
        return super().statistics() | {"scans": self.scans}
