"""`residual-subsets`: solve on samples drawn, and weighted, by their residuals, then on all.

## What it does
`--subset-draw residual` solves in rounds. Each evaluates all samples once, draws a share of them with chances that grow
with their residuals (p - y, or outputs minus targets), weights each by one over its chance, and takes some steps of the
solver on these. L-BFGS solves for a linear output layer within each evaluation, where that is cheap. Where the
objective on all samples does not follow, the next draw is larger; where it rises, the round is taken back. The solver's
curvature, around one K-FAC matrix, goes from round to round and into the solve on all data.
Without `--warmup` it starts with SGD on batches of N/80 samples, 8 to 64.

## Settings
- `--draw-share` (0.25, of few data 500 samples or half of them): share of the data in the first draws. Without it
  fewer than 200 samples are not drawn from: all are solved on after the start.
- `--draw-evaluations` (as many as cost 4 epoch-equivalents, 12 to 16): evaluations of a round.
- `--draw-uniform` (0.05): part of each chance that all samples share alike; 1 draws uniformly.
- `--draw-start` (2.0): epoch-equivalents of SGD before the first draw.

## True cost
Of a round one epoch-equivalent, and `draw-share` for each evaluation; start, K-FAC, the steps of the output layer and
the solver's arithmetic.

## Source
Horvitz and Thompson 1952 (weights), Madow 1949 (systematic draws), Johnson and Zhang 2013 (correction of the gradient),
Golub and Pereyra 1973 (solving for the output layer).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from subsetopt.training.settings.declaration import names_in_phase
from subsetopt.training.settings.plans import PLANS, SubsetPlan

if TYPE_CHECKING:
    from subsetopt.training.settings.fields import RunFields


@PLANS.register(
    "residual-subsets", "samples drawn and weighted by their residuals, in rounds, then all: --subset-draw residual"
)
class ResidualSubsets(SubsetPlan):
    """The plan of `--subset-draw residual`."""

    @classmethod
    def chosen(cls, config: RunFields) -> bool:
        """Return whether samples are to be drawn by their residuals."""
        return config.subset_draw == "residual"

    @classmethod
    def phases(cls, config: RunFields, solve: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the start, unless the run has a warm-up, and the solve."""
        drawn = {key: getattr(config, name) for key, name in names_in_phase(type(config), "drawn").items()}
        start = {"method": "sgd", "role": "warmup", "data": "full", "epochs": config.draw_start, "draw": "residual"}
        started = config.warmup != "none" or not config.draw_start
        return [*([] if started else [start]), {**solve, **drawn, "data": "full"}]
