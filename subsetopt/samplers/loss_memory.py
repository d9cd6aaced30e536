"""The memory that p-sgd and c-sgd share: mean over visits of 1 - p[y], and draws of a budgeted epoch from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from subsetopt.samplers.credit import add_at, credit, true_class_probability
from subsetopt.samplers.draws import draw_with_replacement, draw_without_replacement, importance_weights, wide_dtype
from subsetopt.samplers.protocol import Batch
from subsetopt.samplers.settings import CORRECTIONS, check_choice, check_flag, check_fraction, rows_of


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
class BudgetedImportanceSettings:
    """See the method cards of p-sgd and c-sgd."""

    fraction: float = 0.3
    replacement: bool = False
    correction: str = "none"

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        check_flag("replacement", self.replacement)
        check_choice("correction", self.correction, CORRECTIONS)


def credit_errors(
    total: Tensor,
    visits: Tensor,
    indices: Tensor,
    losses: Tensor,
    probabilities: Tensor | None,
    targets: Tensor | None,
    weights: Tensor | None,
) -> None:
    """Add 1 - p[y] to `total` `(N,)` and the visit to `visits` `(N,)`, in place, for every donor by its share.

    Without probabilities p[y] = exp(-loss), which holds for cross-entropy without label smoothing.
    """
    if probabilities is None or targets is None:
        p = (-losses.detach().float()).exp()
    else:
        p = true_class_probability(probabilities, targets)
    seen = credit(indices, 1 - p, weights)
    add_at(total, seen.indices, seen.values * seen.shares)
    add_at(visits, seen.indices, seen.shares)


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
