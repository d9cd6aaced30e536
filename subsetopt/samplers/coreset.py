"""What the coreset methods share: a subset with weights that is re-selected from a scan of the data now and then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from subsetopt.samplers.base import QueueSampler
from subsetopt.samplers.draws import draw_permutation
from subsetopt.samplers.last_layer import in_index_order
from subsetopt.samplers.protocol import Batch, Scan
from subsetopt.settings import rows_of


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

    Until the first scan the subset is random. Weights are scaled to mean one in every batch: sum w l / sum w.
    Settings have `fraction` and `scan_period`.
    """

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
    def scan_due(self) -> bool:
        """True before the first epoch and whenever `scan_period` epochs are done since then."""
        period = self.settings.scan_period
        return self._exhausted and self._blocks % period == 0 and self._scanned_block != self._blocks

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
        """Return the subset in a new order, classes mixed."""
        order = draw_permutation(len(self.subset), len(self.subset), self.generator, self.device)
        weights = None if self.subset_weights is None else self.subset_weights[order]
        return Batch(self.subset[order], weights)

    def statistics(self) -> dict[str, Any]:
        """Return the common statistics and the number of scans, each charged by the loop."""
        return super().statistics() | {"scans": self.scans}
