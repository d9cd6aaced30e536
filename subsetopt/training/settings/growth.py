"""Growing subsets: the rule that makes the stages of one seed, from the first few samples up to the whole.

The minimum of a small subset costs little and lies near that of a larger one, so each stage starts where the last one
stopped, and stops where its gradient is lost in sampling noise (Byrd, Chin, Nocedal, Wu 2012, "Sample size selection
in optimization methods for machine learning"). This file knows shares of the data only; `phases_of` makes the list.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

Mode = Literal["nested", "disjoint"]
MOST_STAGES = 100
_ROUNDING = 1e-9


class Stage(NamedTuple):
    """A subset: the rows from rank `skip`·N to (`skip` + `share`)·N in the order in which the seed draws them."""

    share: float
    skip: float = 0.0


def growth_stages(start: float, factor: float, end: float, mode: Mode = "nested") -> tuple[Stage, ...]:
    """Return the stages start, start·factor, start·factor², ... and last `end`; all are shares of the training data.

    A stage less than a factor sqrt(factor) below the end is left out: it would cost nearly as much as the last and
    spare it little. Nested stages contain each other. Disjoint ones take the rows drawn next, as long as these last;
    the last stage holds them all.
    """
    stages: list[Stage] = []
    share = start
    while share * math.sqrt(factor) < end * (1 - _ROUNDING):
        skip = 0.0 if mode == "nested" else sum(stage.share for stage in stages)
        if skip + share > end * (1 + _ROUNDING):
            break
        stages.append(Stage(share, skip))
        share = float(f"{share * factor:.12g}")
    return (*stages, Stage(end))


def stage_count(start: float, factor: float, end: float) -> float:
    """Return how many stages `growth_stages` makes at most, without making them; infinite where they never end."""
    step = math.log(factor)
    return math.inf if step == 0 else math.log(end / start) / step + 1


def growing_phases(
    last: dict[str, Any], stages: tuple[Stage, ...], stage: dict[str, Any], carry: bool
) -> list[dict[str, Any]]:
    """Return one phase per stage: all but the last with the settings `stage`; `last` has those that all share."""
    small = [
        {**last, **stage, "role": "grow", "data": "subset", "share": share, "skip": skip, "carry": carry and index > 0}
        for index, (share, skip) in enumerate(stages[:-1])
    ]
    return [*small, {**last, "carry": carry and bool(small)}]
