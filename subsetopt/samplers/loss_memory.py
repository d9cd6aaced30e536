"""The memory that p-sgd and c-sgd share: mean over visits of 1 - p[y], and draws of a budgeted epoch from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsetopt.samplers.base import QueueSampler
from subsetopt.samplers.credit import add_at, credit, true_class_probability
from subsetopt.samplers.draws import draw_with_replacement, draw_without_replacement, importance_weights, wide_dtype
from subsetopt.samplers.protocol import Batch, Seen
from subsetopt.settings import CheckedSettings, Correction, rows_of, setting


def smoothed_probabilities(scores: Tensor, seen: Tensor) -> Tensor:
    """Return P_i = (s_i + s_mean) / (2 N s_mean) from `scores` `(N,)`, unseen ones set to the maximum seen.

    Uniform while nothing is seen or all scores are zero. Shape `(N,)`, summing to one.
    """
    s = scores.to(wide_dtype(scores.device))
    highest = torch.where(seen, s, 0.0).max()
    s = torch.where(seen, s, highest)
    mean = s.mean()
    return torch.where(mean > 0, (s + mean) / (2 * mean), torch.ones_like(s)) / len(s)


@dataclass(frozen=True)
class BudgetedImportanceSettings(CheckedSettings):
    """See the method cards of p-sgd and c-sgd."""

    fraction: float = setting(0.3, above=0, at_most=1)
    replacement: bool = False
    correction: Correction = "none"


def credit_errors(total: Tensor, visits: Tensor, seen: Seen) -> None:
    """Add 1 - p[y] to `total` `(N,)` and the visit to `visits` `(N,)`, in place, for every donor by its share.

    Without probabilities p[y] = exp(-loss), which holds for cross-entropy without label smoothing.
    """
    if seen.probabilities is None or seen.targets is None:
        p = (-seen.losses.detach().float()).exp()
    else:
        p = true_class_probability(seen.probabilities, seen.targets)
    errors = credit(seen.indices, 1 - p, seen.weights)
    add_at(total, errors.indices, errors.values * errors.shares)
    add_at(visits, errors.indices, errors.shares)


def mean_over_visits(total: Tensor, visits: Tensor) -> Tensor:
    """Return s_i = total_i / visits_i, zero where there were no visits."""
    return total / visits.clamp_min(torch.finfo(visits.dtype).tiny)


def draw_budgeted_epoch(
    probabilities: Tensor, settings: BudgetedImportanceSettings, generator: torch.Generator
) -> Batch:
    """Return the rows of an epoch drawn from `probabilities` `(N,)`, with importance weights if a correction asks."""
    n = len(probabilities)
    size = rows_of(settings.fraction, n)
    if settings.replacement:
        indices = draw_with_replacement(probabilities, size, generator)
        weights = importance_weights(probabilities[indices], n)
    else:
        indices, inclusion = draw_without_replacement(probabilities, size, generator)
        weights = (size / (n * inclusion)).float()
    return Batch(indices, None if settings.correction == "none" else weights)


class BudgetedImportance(QueueSampler):
    """Budgeted epochs drawn by a score of the remembered errors; p-sgd and c-sgd differ in the score alone."""

    Settings = BudgetedImportanceSettings
    settings: BudgetedImportanceSettings
    needs = frozenset({"probabilities"})
    does_without = frozenset({"probabilities"})
    persistent = ("total", "visits")

    def __init__(self, n_samples: int, batch_size: int, seed: int, device: torch.device, *rest: Any) -> None:
        super().__init__(n_samples, batch_size, seed, device, *rest)
        self.epoch_rows = rows_of(self.settings.fraction, n_samples)
        self.unbiased = self.settings.correction == "importance"
        self.normalise_batches = self.settings.correction == "self-normalised"
        self.total = torch.zeros(n_samples, device=device)
        self.visits = torch.zeros(n_samples, device=device)

    def score(self, s: Tensor) -> Tensor:
        """Return what samples are drawn in proportion to, from s `(N,)`, the mean over visits of 1 - p[y]."""
        raise NotImplementedError

    @property
    def probabilities(self) -> Tensor:
        """Single-draw probabilities P_i `(N,)` from what has been observed so far."""
        return smoothed_probabilities(self.score(mean_over_visits(self.total, self.visits)), self.visits > 0)

    def draw_block(self) -> Batch:
        """Return a budgeted epoch."""
        return draw_budgeted_epoch(self.probabilities, self.settings, self.generator)

    def learn(self, seen: Seen) -> None:
        """Credit 1 - p[y] to every donor; without probabilities p[y] = exp(-loss)."""
        credit_errors(self.total, self.visits, seen)
