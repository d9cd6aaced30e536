"""`one-subset`: solve on one random subset to its minimum.

## What it does
Draws a stratified random subset (`--subset-frac`, `--subset-size`) and minimises its full-batch loss by `--solver`.
With `--handoff` the run goes on from the minimum on all data.

## Settings
- `--stop-at` (minimum): gradient test, sampling noise or held-out loss.
- `--solver-epochs`, `--max-iterations`: what the solve may take at most.

## True cost
Evaluations of the subset, K/N epoch-equivalents each, and those of curvature products.

## Source
Sporer et al. 2024, arXiv 2410.16523.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from subsetopt.training.settings.plans import PLANS, SubsetPlan

if TYPE_CHECKING:
    from subsetopt.training.settings.fields import RunFields


@PLANS.register("one-subset", "one random subset, solved to its minimum (the default)")
class OneSubset(SubsetPlan):
    """The plan without a flag."""

    @classmethod
    def chosen(cls, config: RunFields) -> bool:
        """Return whether nothing else is asked for."""
        return config.grow is None and config.subsets == 1 and config.subset_draw == "uniform"

    @classmethod
    def phases(cls, config: RunFields, solve: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the solve alone."""
        return [solve]
