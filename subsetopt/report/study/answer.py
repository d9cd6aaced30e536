"""The answer of a comparison in one or two sentences: the best method, and how the best subset solve stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from subsetopt.documents.comparison import ComparisonDocument, ComparisonEntry, ResultEntry
from subsetopt.report.numbers import counted
from subsetopt.report.study.tables import results_at
from subsetopt.report.study.texts import (
    MISSING,
    budget_text,
    difference_text,
    inside,
    interval_text,
    metric_text,
    metric_title,
    p_equation,
)

_NAMED = 3  # names that a sentence bears
_Pairs = Mapping[tuple[str, str], ComparisonEntry]


def answer(study: ComparisonDocument) -> str:
    """Return what the study found at its largest budget, for readers who read nothing else."""
    budget = max(study.budgets)
    rows = [row for row in results_at(study, budget) if row.mean is not None]
    if not rows:
        return f"After {budget_text(study, budget)} no cell was finished."
    pairs = _pairs(study, budget)
    best = rows[0]
    interval = interval_text(inside(best.interval, best.metric), best.metric)
    spread = "" if interval == MISSING else f" (95 % interval {interval})"
    found = f"{best.method} has the best {metric_title(study.metric).lower().replace('mse', 'MSE')}"
    first = f"After {budget_text(study, budget)} {found}, {metric_text(best.mean, best.metric)}{spread}"
    return (
        f"{first}{_relations(best.method, [row.method for row in rows[1:]], pairs)}.{_subset_solve(study, rows, pairs)}"
    )


def _pairs(study: ComparisonDocument, budget: float) -> dict[tuple[str, str], ComparisonEntry]:
    rows = [row for row in study.comparisons if (row.budget, row.metric) == (budget, study.metric)]
    return {(row.a, row.b): row for row in (*(row.reversed() for row in rows), *rows)}


def _relations(best: str, others: Sequence[str], pairs: _Pairs) -> str:
    """Return which of the other methods the best one is shown to be better than."""
    tested = [name for name in others if (best, name) in pairs]
    if not others:
        return ""
    if not tested:
        return "; no test was made, so chance may explain it"
    better = [name for name in tested if pairs[best, name].verdict == "better"]
    equal = [name for name in tested if name not in better]
    all_tested = len(tested) == len(others)
    if not equal:
        return "; it is better than " + (_all(better) if all_tested else _names(better))
    if not better and all_tested:
        return f"; no difference is shown to {_all(equal)}"
    shown = f"it is better than {_names(better)}, and " if better else ""
    return f"; {shown}no difference is shown to {_names(equal)}"


def _all(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"all {len(names)} others"


def _names(names: Sequence[str]) -> str:
    if len(names) > _NAMED:
        return counted(len(names), "other")
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _subset_solve(study: ComparisonDocument, rows: Sequence[ResultEntry], pairs: _Pairs) -> str:
    """Return how the best method with a subset solve stands to the best first-order one, where both were run."""
    families = {method.name: method.family for method in study.methods}
    ours, theirs = (next((r.method for r in rows if families[r.method] == f), None) for f in ("subset", "first-order"))
    pair = pairs.get((ours or "", theirs or ""))
    if pair is None:
        return ""
    said = "not shown to differ from" if pair.verdict == "no difference" else f"{pair.verdict} than"
    p = pair.p if pair.p_adjusted is None else pair.p_adjusted
    facts = [difference_text(pair.difference, pair.metric), *([] if p is None else [p_equation(p)])]
    judged = f"The best method with a subset solve, {ours}, is {said} the best first-order one, {theirs}"
    return f" {judged}: {', '.join(facts)}."
