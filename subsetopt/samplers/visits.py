"""What a sampler really trained on: visits per sample, effective batch sizes, realised keep rate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from subsetopt.samplers.credit import add_at
from subsetopt.samplers.protocol import Batch


class Visits:
    """Counts on the device, without synchronising; `summary` reads them once."""

    def __init__(self, n: int, device: torch.device) -> None:
        self.visits = torch.zeros(n, dtype=torch.int32, device=device)
        self.effective_share = torch.zeros((), device=device)
        self.batches = 0
        self.trained = 0
        self.candidates = 0

    def record(self, batch: Batch) -> None:
        """Enter a batch that is handed out for training."""
        add_at(self.visits, batch.indices, torch.ones_like(batch.indices))
        self.batches += 1
        self.trained += len(batch.indices)
        self.effective_share += effective_share(batch)

    def summary(self, epochs: float) -> dict[str, Any]:
        """Return the statistics after `epochs` epochs of the sampler.

        `effective_batch_share` is the mean over batches of (sum w)^2 / (b sum w^2), Kish's effective sample size as a
        share of the batch. `inclusion` is visits per sample and epoch: minimum, quartiles and maximum over samples.
        """
        counts = self.visits.cpu().sort().values
        places = torch.linspace(0, len(counts) - 1, 5, device="cpu").round().long()
        inclusion = counts[places].double() / max(epochs, 1e-12)
        return {
            "unique_samples": int((counts > 0).sum()),
            "batches": self.batches,
            "trained_samples": self.trained,
            "effective_batch_share": float(self.effective_share) / self.batches if self.batches else 1.0,
            "inclusion": dict(zip(("minimum", "q25", "median", "q75", "maximum"), inclusion.tolist(), strict=True)),
        }


def effective_share(batch: Batch) -> Tensor | float:
    """Return (sum w)^2 / (b sum w^2) of the batch's weights as a scalar on the device; 1 without weights."""
    if batch.weights is None:
        return 1.0
    return batch.weights.sum().square() / (len(batch.weights) * batch.weights.square().sum())
