"""What `subsetopt plan` prints with `--json`."""

from __future__ import annotations

from typing import Literal

from subsetopt.documents.base import Count, Document, Entry, Measured
from subsetopt.documents.run import Purpose


class WantedEntry(Entry):
    """The wanted relative excess over the full minimum's objective, or the held-out loss that it was computed from."""

    excess: Measured
    target_loss: Measured | None
    full_minimum: Measured | None
    held_out_minimum: Measured | None = None


class SpeedsEntry(Entry):
    """Seconds on this machine; see `subsetopt.plan.pilot.Speeds`."""

    unit: Measured
    hvp: Measured
    ggnvp: Measured
    step: Measured
    small_gradient: Measured
    held_out: Measured | None


class PilotEntry(Entry):
    """A solve on a small random subset; losses are without L2, whose term is `penalty`."""

    samples: Count
    converged: bool
    loss: Measured
    penalty: Measured
    held_out: Measured | None
    overhead: Measured
    epoch_equivalents: Measured
    seconds: Measured
    evaluations: Count
    effective_parameters: Measured | None


class RangeEntry(Entry):
    """A predicted range."""

    low: Measured
    high: Measured


class StrategyEntry(Entry):
    """The predicted cost of a strategy, None where it was not measured to reach the quality.

    `calls` are model calls that must follow one another; `rests_on` names the measurements. `refused` says why it is
    left out for these data or this model: then there is no command.
    """

    strategy: str
    command: str
    epoch_equivalents: RangeEntry | None
    seconds: RangeEntry | None
    calls: RangeEntry | None
    rests_on: list[str]
    refused: str | None = None


class RecommendationEntry(Entry):
    """The cheapest strategy, its command, and why."""

    strategy: str
    command: str
    by: Literal["seconds", "units"]
    why: str


class PlanCost(Entry):
    """What the plan itself cost; `timing` is the part that measured the speeds."""

    epoch_equivalents: Measured
    timing: dict[str, Purpose]
    seconds: Measured


class PlanDocument(Document):
    """Predictions and a recommendation for one problem on this machine."""

    dataset: str
    model: str
    samples: Count
    parameters: Count
    l2: Measured
    wanted: WantedEntry
    speeds: SpeedsEntry
    pilot: PilotEntry | None
    strategies: list[StrategyEntry]
    recommendation: RecommendationEntry | None
    notes: list[str]
    cost: PlanCost
