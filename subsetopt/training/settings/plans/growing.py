"""`growing-subsets`: solve on subsets that grow, each from the end of the one before.

## What it does
`--grow FACTOR` multiplies the subset's size from stage to stage, up to `--subset-frac` or all data. A stage ends where
its gradient is below its own sampling noise, and hands its curvature on.

## Settings
- `--grow-start` (0.01): share of the data in the first stage. `--grow-mode` (nested), or disjoint.
- `--grow-stop` (noise), or validation, or cost (`--grow-epochs`); `--noise-theta` (0.1) scales the noise.
- `--grow-carry` (on): start a stage with the curvature of the one before.

## True cost
The sum over stages, each in evaluations of its own subset.

## Source
Byrd, Chin, Nocedal, Wu 2012, "Sample size selection in optimization methods for machine learning".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from subsetopt.training.settings.declaration import names_in_phase
from subsetopt.training.settings.growth import growing_phases, growth_stages
from subsetopt.training.settings.plans import PLANS, SubsetPlan

if TYPE_CHECKING:
    from subsetopt.training.settings.fields import RunFields


@PLANS.register("growing-subsets", "subsets that grow by a factor, each solved from the end of the last: --grow")
class GrowingSubsets(SubsetPlan):
    """The plan of `--grow`."""

    @classmethod
    def chosen(cls, config: RunFields) -> bool:
        """Return whether a factor is given."""
        return config.grow is not None

    @classmethod
    def phases(cls, config: RunFields, solve: dict[str, Any]) -> list[dict[str, Any]]:
        """Return one phase per stage."""
        assert config.grow is not None, "the plan is chosen by it"
        stages = growth_stages(config.grow_start, config.grow, config.subset_share, config.grow_mode)
        # All the data without augmented copies are what a phase on "full" works on.
        whole = {"data": "full"} if config.subset_frac is None and not config.augment_copies else {}
        stage = {key: getattr(config, name) for key, name in names_in_phase(type(config), "grow").items()}
        if config.grow_stop == "cost":
            stage["stop_at"] = "minimum"
        return growing_phases({**solve, **whole}, stages, stage, config.grow_carry)
