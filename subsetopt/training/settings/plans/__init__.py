"""Ways to solve on subsets with a full-batch solver, each chosen by a flag of its own: what phases the solve becomes.

A plan is a file of this folder with its card. Imports no torch: settings are read before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from subsetopt.registry import Registry

if TYPE_CHECKING:
    from subsetopt.training.settings.fields import RunFields


class SubsetPlan:
    """What a solve on subsets consists of."""

    @classmethod
    def chosen(cls, config: RunFields) -> bool:
        """Return whether the settings ask for this plan; the plan of one subset is what is left."""
        raise NotImplementedError

    @classmethod
    def phases(cls, config: RunFields, solve: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the settings of the phases; `solve` has those of a plain solve on the run's subset."""
        raise NotImplementedError


PLANS: Registry[type[SubsetPlan]] = Registry("strategy", "subsetopt.training.settings.plans", group="subsetopt.plans")


def chosen_plan(config: RunFields) -> type[SubsetPlan]:
    """Return the plan that the settings ask for."""
    return next((entry.target for entry in PLANS if entry.target.chosen(config)), PLANS.get("one-subset"))
