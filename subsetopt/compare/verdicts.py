"""The answers of a comparison in plain sentences, "no difference" and "worse" among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from subsetopt.compare.seconds import seconds_sentence, target_agreement
from subsetopt.documents.comparison import ComparisonDocument, ComparisonEntry, Interval, ResultEntry
from subsetopt.report.numbers import epochs

VERDICTS = ("better", "worse", "no difference")
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
    if summary.objective is not None:
        lines.append(summary.objective.text)
    lines += _equal_methods(summary)
    lines.append(_how_tested(summary))
    if summary.failures:
        count = len(summary.failures)
        failed = "1 cell failed and is" if count == 1 else f"{count} cells failed and are"
        lines.append(f"{failed} left out; the report lists them.")
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
        f"{_objective_reached(summary, best, rows) if summary.metric == 'mse' else ''}"
        f"{_relations(best.method, [row.method for row in ordered[1:]], pairs)}."
    ]
    if summary.baseline is not None:
        lines += _against_baseline(summary, summary.baseline, ordered, pairs)
    lines += seconds_sentence(summary, best, rows)
    rival = _best_of(ordered, families, "first-order")
    for family, called in CONTENDERS.items():
        contender = _best_of(ordered, families, family)
        if rival is not None and contender is not None and (contender.method, rival.method) in pairs:
            lines.append(_against_rival(summary, called, contender, rival, pairs))
    return [*lines, *_power(summary, budget)]


def _against_baseline(
    summary: ComparisonDocument, baseline: str, ordered: Sequence[ResultEntry], pairs: _Pairs
) -> list[str]:
    """Return one sentence on every method that was tested against the baseline."""
    tested = [row for row in ordered if (row.method, baseline) in pairs]
    named = {
        verdict: [_with_objective(summary, row) for row in tested if pairs[row.method, baseline].verdict == verdict]
        for verdict in VERDICTS
    }
    parts = [f"{verdict}: {_list(names)}" for verdict, names in named.items() if names]
    return [f"Against {baseline}, {'; '.join(parts)}."] if parts else []


def _power(summary: ComparisonDocument, budget: float) -> list[str]:
    """Return what difference the tests at one budget would have shown, in the units of the metric."""
    rows = [row for row in summary.comparisons if (row.budget, row.metric) == (budget, summary.metric)]
    found = sorted(row.detectable for row in rows if row.detectable is not None)
    if not found:
        return []
    spread = "" if len(found) == 1 else f" ({_size(summary, found[0])} to {_size(summary, found[-1])}, by pair)"
    return [
        f"The smallest difference that {summary.seed_count} seeds with this scatter show with "
        f"{100 * summary.power:.0f} % power is {_size(summary, median(found))}{spread}."
    ]


def _with_objective(summary: ComparisonDocument, row: ResultEntry) -> str:
    """Return a method's name, with the objective that it reached where a test loss would rank it alone."""
    same = summary.objective is not None and summary.objective.kind == "same" and summary.metric == "mse"
    known = same and row.objective_mean is not None
    return f"{row.method} (training objective {row.objective_mean:.4g})" if known else row.method


def _objective_reached(summary: ComparisonDocument, row: ResultEntry, rows: Sequence[ResultEntry]) -> str:
    """Return the training objective beside a test loss, where all methods minimise the same."""
    values = sorted(other.objective_mean for other in rows if other.objective_mean is not None)
    same = summary.objective is not None and summary.objective.kind == "same"
    if not same or row.objective_mean is None or len(values) < 2:
        return ""
    place = values.index(row.objective_mean) + 1
    order = "lowest" if place == 1 else f"{place}{ {2: 'nd', 3: 'rd'}.get(place, 'th') } lowest"
    return f" (training objective {row.objective_mean:.4g}, the {order} of {len(values)})"


def _best_of(ordered: Sequence[ResultEntry], families: Mapping[str, str], family: str) -> ResultEntry | None:
    return next((row for row in ordered if families[row.method] == family), None)


def _relations(best: str, others: Sequence[str], pairs: _Pairs) -> str:
    tested = [name for name in others if (best, name) in pairs]
    better = [name for name in tested if pairs[best, name].verdict == "better"]
    equal = [name for name in tested if pairs[best, name].verdict == "no difference"]
    parts = []
    if better:
        parts.append(f"it is better than {_list(better)}")
    if equal:
        parts.append(f"no difference is shown {'to' if better else 'between it and'} {_list(equal)}")
    return "; " + "; ".join(parts) if parts else ""


def _against_rival(
    summary: ComparisonDocument, called: str, contender: ResultEntry, rival: ResultEntry, pairs: _Pairs
) -> str:
    pair = pairs[contender.method, rival.method]
    a, b = _with_objective(summary, contender), _with_objective(summary, rival)
    facts = f"{_difference(summary, pair.difference)}{_interval(summary, pair.interval)}"
    p = "" if pair.p_adjusted is None else f", p = {pair.p_adjusted:.2g} after correction"
    said = "not shown to differ from" if pair.verdict == "no difference" else f"{pair.verdict} than"
    return f"{called}, {a}, is {said} the best first-order one, {b}: {facts}{p}."


def _cost_of_tuning(summary: ComparisonDocument) -> list[str]:
    costs = {
        method.name: sum(search.epoch_equivalents for search in method.tuning) / max(summary.seed_count, 1)
        for method in summary.methods
        if method.tuning
    }
    if not any(costs.values()):
        return []
    low, high = min(costs, key=lambda name: costs[name]), max(costs, key=lambda name: costs[name])
    ends = Counter(
        f"{method.name} at {search.budget:g}"
        for method in summary.methods
        for search in method.tuning
        if search.setting is not None and not search.inside
    )
    text = (
        f"Tuning cost {costs[low]:.3g} ({low}) to {costs[high]:.3g} ({high}) epoch-equivalents per method and seed, "
        f"over all budgets, in {summary.trials} trials per search; it is not in the budgets and stands under cost "
        "including tuning."
    )
    lines = [text]
    if ends:
        outside = [f"{name} ({count} of {summary.seed_count} searches)" for name, count in ends.items()]
        lines.append(f"The best value lay at the end of what was tried: {_list(outside)}.")
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
            f"({epochs(cheapest.cost_mean or 0.0)}) and in the least time by {fastest.method} "
            f"({fastest.seconds_mean or 0.0:.3g} s), of the {len(rows)} method{'' if len(rows) == 1 else 's'} that "
            f"reached it with every seed{_objective_of(summary, cheapest.method)}"
            f"{target_agreement(cheapest, fastest)}."
        )
    return lines


def _objective_of(summary: ComparisonDocument, method: str) -> str:
    """Return the training objective of the method that was cheapest to a held-out loss, after the largest budget."""
    budget = max(summary.budgets)
    rows = [row for row in summary.results if row.budget == budget and row.mean is not None]
    mine = next((row for row in rows if row.method == method), None)
    reached = "" if mine is None else _objective_reached(summary, mine, rows).strip(" ()")
    return f"; after {_budget(summary, budget)} {method} has the {reached}" if reached else ""


def _equal_methods(summary: ComparisonDocument) -> list[str]:
    """Return a sentence on methods whose settings come to the same, such as Adam and AdamW without decoupled decay."""
    results: dict[tuple[tuple[float | None, ...], ...], list[str]] = {}
    for name in summary.names:
        values = tuple((row.loss_mean, *row.values) for row in summary.results if row.method == name and row.n)
        if values:
            results.setdefault(values, []).append(name)
    return [
        f"{_list(names)} gave the same results with every seed: under these settings they are one method."
        for names in results.values()
        if len(names) > 1
    ]


def _how_tested(summary: ComparisonDocument) -> str:
    n = summary.seed_count
    if n < 2:
        return "One seed tells nothing about chance: no test was made."
    methods = len(summary.methods)
    if methods < 2:
        return "One method has nothing to be compared with: no test was made."
    pairs = methods * (methods - 1) // 2 if summary.baseline is None else methods - 1
    family = "all pairs of methods" if summary.baseline is None else f"the comparisons with {summary.baseline}"
    remedy = "more seeds, fewer methods or a baseline show" if summary.baseline is None else "more seeds show"
    power = f" Among {pairs} pairs the first must have p < {0.05 / pairs:.2g}: {remedy} more."
    luck = " Each seed was tuned on seeds of its own, so that the luck of tuning is counted." if summary.tune else ""
    return (
        f"Tests are paired over {n} seeds, with Holm's correction over {family} at one budget; "
        "no difference shown means that chance could explain it, not that the methods are equal."
        f"{luck}{power if pairs > 1 else ''}"
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


def _size(summary: ComparisonDocument, value: float) -> str:
    return f"{100 * value:.2f} points" if summary.metric == "accuracy" else f"{value:.3g}"


def _interval(summary: ComparisonDocument, interval: Interval) -> str:
    if interval is None or interval[0] is None or interval[1] is None:
        return ""
    scale, digits = (100, ".2f") if summary.metric == "accuracy" else (1, ".4g")
    return f" [{scale * interval[0]:{digits}}, {scale * interval[1]:{digits}}]"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
