"""Seconds beside units: whether methods that were given equal cost took equal time, and what follows where not.

Units are equal at a budget, by construction; seconds are not, since work entry by entry, launches and Python are in
them and not in units. They are those of this machine, and of the other work that it had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from subsetopt.documents.comparison import ComparisonDocument, ComparisonEntry, ResultEntry, TimeToTarget
from subsetopt.study.statistics import compare_all

METRIC = "seconds"


def seconds_tests(seconds: Mapping[str, Mapping[int, float]], budget: float) -> list[ComparisonEntry]:
    """Return paired tests of `{method: {seed: seconds}}`, one family at a budget; less is better."""
    return [ComparisonEntry(**vars(pair), budget=budget, metric=METRIC) for pair in compare_all(seconds, False)]


def seconds_sentence(summary: ComparisonDocument, best: ResultEntry, rows: Sequence[ResultEntry]) -> list[str]:
    """Return how long runs took at the budget of `best`, and which methods took significantly less time than it.

    Nothing for one method alone, for budgets in seconds, and where no seconds are known.
    """
    known = sorted((row for row in rows if row.seconds_mean is not None), key=lambda row: row.seconds_mean or 0.0)
    if summary.budget_unit == "seconds" or len(known) < 2 or best not in known:
        return []
    took = f"A run took {_seconds(known[0])} s ({known[0].method}) to {_seconds(known[-1])} s ({known[-1].method})"
    if best not in (known[0], known[-1]):
        took += f", {best.method} {_seconds(best)} s"
    faster = [row for row in known if _faster(summary, row.method, best)]
    if not faster:
        return [f"{took}; no method was significantly faster than {best.method}."]
    shares = ", ".join(f"{row.method} {_share(row, best)}" for row in faster)
    return [
        f"{took}. Cost and seconds disagree: of the time of {best.method} others took significantly less ({shares}); "
        f"at equal seconds the order may be another; {_REMEDY} tells."
    ]


def target_agreement(cheapest: TimeToTarget, fastest: TimeToTarget) -> str:
    """Return what to add where the least cost and the least time to a target are not those of one method."""
    return "" if cheapest.method == fastest.method else "; here cost and seconds disagree"


_REMEDY = "`--budget-unit seconds`"


def _faster(summary: ComparisonDocument, method: str, best: ResultEntry) -> bool:
    for row in summary.seconds_comparisons:
        if row.budget != best.budget or {row.a, row.b} != {method, best.method} or method == best.method:
            continue
        return (row if row.a == method else row.reversed()).verdict == "better"
    return False


def _seconds(row: ResultEntry) -> str:
    return f"{row.seconds_mean:.2g}"


def _share(row: ResultEntry, best: ResultEntry) -> str:
    if not row.seconds_mean or not best.seconds_mean:
        return "none"
    return f"{row.seconds_mean / best.seconds_mean:.2f}"
