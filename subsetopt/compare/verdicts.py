"""The answers of a comparison in plain sentences, "no difference" and "worse" among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from subsetopt.compare.seconds import seconds_sentence, target_agreement
from subsetopt.documents.comparison import ComparisonDocument, ComparisonEntry, Interval, ResultEntry

_Pairs = Mapping[tuple[str, str], ComparisonEntry]
CONTENDERS = {
    "subset": "The best method with a subset solve",
    "stream": "The best method with a stream of fresh subsets",
}
"""Families that are held against the best first-order method, and what their best is called."""


def sentences(summary: ComparisonDocument) -> list[str]:
    """Return the answers of `summary`, for readers who read nothing else."""
    families = {method.name: method.family for method in summary.methods}
    lines = []
    for budget in summary.budgets:
        lines += _at_budget(summary, families, budget)
    lines += _cost_of_tuning(summary)
    lines += _targets(summary)
    lines.append(_how_tested(summary))
    if summary.failures:
        lines.append(f"{len(summary.failures)} cells failed and are left out; the report lists them.")
    return lines


def _at_budget(summary: ComparisonDocument, families: Mapping[str, str], budget: float) -> list[str]:
    rows = [row for row in summary.results if row.budget == budget and row.mean is not None]
    if not rows:
        return [f"At {_budget(summary, budget)} no cell was finished."]
    pairs = _pairs(summary, budget)
    ordered = sorted(rows, key=lambda row: row.mean or 0.0, reverse=summary.higher_is_better)
    best = ordered[0]
    lines = [
        f"At {_budget(summary, budget)} {best.method} has the best mean test {summary.metric}, "
        f"{_value(summary, best.mean)}{_interval(summary, best.interval)}"
        f"{_relations(best.method, [row.method for row in ordered[1:]], pairs)}."
    ]
    lines += seconds_sentence(summary, best, rows)
    rival = _best_of(ordered, families, "first-order")
    for family, called in CONTENDERS.items():
        contender = _best_of(ordered, families, family)
        if rival is not None and contender is not None:
            lines.append(_against_rival(summary, called, contender, rival, pairs))
    return lines


def _best_of(ordered: Sequence[ResultEntry], families: Mapping[str, str], family: str) -> ResultEntry | None:
    return next((row for row in ordered if families[row.method] == family), None)


def _relations(best: str, others: Sequence[str], pairs: _Pairs) -> str:
    better = [name for name in others if pairs[best, name].verdict == "better"]
    equal = [name for name in others if pairs[best, name].verdict == "no difference"]
    parts = []
    if better:
        parts.append(f"it is better than {_list(better)}")
    if equal:
        parts.append(f"no difference is shown {'to' if better else 'between it and'} {_list(equal)}")
    return "; " + "; ".join(parts) if parts else ""


def _against_rival(
    summary: ComparisonDocument, called: str, contender: ResultEntry, rival: ResultEntry, pairs: _Pairs
) -> str:
    a, b = contender.method, rival.method
    pair = pairs[a, b]
    facts = f"{_difference(summary, pair.difference)}{_interval(summary, pair.interval)}"
    p = "" if pair.p_adjusted is None else f", p = {pair.p_adjusted:.2g} after correction"
    said = "not shown to differ from" if pair.verdict == "no difference" else f"{pair.verdict} than"
    return f"{called}, {a}, is {said} the best first-order one, {b}: {facts}{p}."


def _cost_of_tuning(summary: ComparisonDocument) -> list[str]:
    costs = {
        method.name: sum(search.epoch_equivalents for search in method.tuning)
        for method in summary.methods
        if method.tuning
    }
    if not any(costs.values()):
        return []
    low, high = min(costs, key=lambda name: costs[name]), max(costs, key=lambda name: costs[name])
    outside = [
        f"{method.name} at {search.budget:g}"
        for method in summary.methods
        for search in method.tuning
        if search.setting is not None and not search.inside
    ]
    text = (
        f"Tuning cost {costs[low]:.3g} ({low}) to {costs[high]:.3g} ({high}) epoch-equivalents per method over all "
        "budgets; it is not in the budgets and stands under cost including tuning."
    )
    lines = [text]
    if outside:
        lines.append(f"The best value lay at the end of its grid when the search stopped: {_list(outside)}.")
    return lines


def _targets(summary: ComparisonDocument) -> list[str]:
    lines = []
    for target in dict.fromkeys(row.target for row in summary.time_to_target):
        rows = [row for row in summary.time_to_target if row.target == target and row.reached == row.of]
        if not rows:
            lines.append(f"No method reached a held-out loss of {target:g} with every seed.")
            continue
        cheapest = min(rows, key=lambda row: row.cost_mean or 0.0)
        fastest = min(rows, key=lambda row: row.seconds_mean or 0.0)
        lines.append(
            f"A held-out loss of {target:g} was reached with the least cost by {cheapest.method} "
            f"({cheapest.cost_mean or 0.0:.3g} epoch-equivalents) and in the least time by {fastest.method} "
            f"({fastest.seconds_mean or 0.0:.3g} s), of the {len(rows)} methods that reached it with every seed"
            f"{target_agreement(cheapest, fastest)}."
        )
    return lines


def _how_tested(summary: ComparisonDocument) -> str:
    n = summary.seed_count
    if n < 2:
        return "One seed tells nothing about chance: no test was made."
    methods = len(summary.methods)
    if methods < 2:
        return "One method has nothing to be compared with: no test was made."
    pairs = methods * (methods - 1) // 2
    power = f" Among {pairs} pairs the first must have p < {0.05 / pairs:.2g}: more seeds or fewer methods show more."
    return (
        f"Tests are paired over {n} seeds, with Holm's correction over all pairs of methods at one budget; "
        "no difference shown means that chance could explain it, not that the methods are equal."
        f"{power if pairs > 1 else ''}"
    )


def _pairs(summary: ComparisonDocument, budget: float) -> _Pairs:
    pairs: dict[tuple[str, str], ComparisonEntry] = {}
    for row in summary.comparisons:
        if row.budget == budget and row.metric == summary.metric:
            pairs[row.a, row.b] = row
            pairs[row.b, row.a] = row.reversed()
    return pairs


def _budget(summary: ComparisonDocument, budget: float) -> str:
    unit = "second" if summary.budget_unit == "seconds" else "epoch-equivalent"
    return f"{budget:g} {unit}{'' if budget == 1 else 's'}"


def _value(summary: ComparisonDocument, value: float | None) -> str:
    if value is None:
        return "not finite"
    return f"{100 * value:.2f} %" if summary.metric == "accuracy" else f"{value:.4g}"


def _difference(summary: ComparisonDocument, value: float | None) -> str:
    if value is None:
        return "no seed in common"
    return f"{100 * value:+.2f} points" if summary.metric == "accuracy" else f"{value:+.3g}"


def _interval(summary: ComparisonDocument, interval: Interval) -> str:
    if interval is None or interval[0] is None or interval[1] is None:
        return ""
    scale, digits = (100, ".2f") if summary.metric == "accuracy" else (1, ".4g")
    return f" [{scale * interval[0]:{digits}}, {scale * interval[1]:{digits}}]"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
