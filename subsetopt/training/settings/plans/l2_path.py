"""`l2-path`: solve for several L2 strengths, from the strongest to the weakest, and go on with the best.

## What it does
`--l2 1e-2,1e-3,1e-4` solves the subset for each strength, each solve from the end of the last with its curvature. The
strength with the lowest held-out loss is chosen, and its minimum solved to `--gtol`.

## Settings
- `--l2`: the strengths, in any order. `--validation-fraction` (0.1): what is held out.
- `--gtol`: of the chosen minimum; the others are solved to a looser test. `--max-iterations` is of each solve,
  `--solver-epochs` of all together.

## True cost
All solves and held-out evaluations; eight strengths together about as much as the dearest alone.

## Source
Friedman, Hastie, Tibshirani 2010, "Regularization paths for generalized linear models via coordinate descent".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from subsetopt.training.settings.plans import PLANS, SubsetPlan

if TYPE_CHECKING:
    from subsetopt.training.settings.fields import RunFields


@PLANS.register("l2-path", "solves along several L2 strengths, of which held-out data choose one: --l2 X,X,...")
class L2Path(SubsetPlan):
    """The plan of a list of strengths."""

    @classmethod
    def chosen(cls, config: RunFields) -> bool:
        """Return whether there are several strengths."""
        return len(config.strengths) > 1

    @classmethod
    def phases(cls, config: RunFields, solve: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the phase of all strengths."""
        return [{**solve, "l2_path": config.strengths}]
