"""`several-subsets`: solve disjoint subsets from the same start, and join their minima.

## What it does
`--subsets COUNT` draws so many disjoint subsets of `--subset-frac` each and solves every one from the initial weights.
Several processes share the solves.

## Settings
- `--subsets-then` (average): the average of the minima, the best of them, all as one subset (together), or that solve
  started at the average (resolve).
- `--subsets-select` (auto): the data on which the best is chosen, held-out data where there are some.

## True cost
The sum of all solves; a limit is divided equally among them.

## Source
Zhang, Duchi, Wainwright 2013, "Communication-efficient algorithms for statistical optimization".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from subsetopt.training.settings.plans import PLANS, SubsetPlan

if TYPE_CHECKING:
    from subsetopt.training.settings.fields import RunFields


@PLANS.register(
    "several-subsets", "disjoint subsets, each solved from the same start, and their minima joined: --subsets"
)
class SeveralSubsets(SubsetPlan):
    """The plan of `--subsets`."""

    @classmethod
    def chosen(cls, config: RunFields) -> bool:
        """Return whether more than one is asked for."""
        return config.grow is None and config.subsets > 1

    @classmethod
    def phases(cls, config: RunFields, solve: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the phase of all subsets, and with `resolve` that of their union."""
        then = "average" if config.subsets_then == "resolve" else config.subsets_then
        joined = {**solve, "subsets": config.subsets, "subsets_then": then, "subsets_select": config.subsets_select}
        if config.subsets_then != "resolve":
            return [joined]
        return [joined, {**solve, "subsets": config.subsets, "subsets_then": "together"}]
