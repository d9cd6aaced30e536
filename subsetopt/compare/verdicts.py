"""The answers of a comparison in plain sentences, "no difference" and "worse" among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from subsetopt.study.statistics import Interval

Row = Mapping[str, Any]
CONTENDERS = {
    "subset": "The best method with a subset solve",
    "stream": "The best method with a stream of fresh subsets",
}
"""Families that are held against the best first-order method, and what their best is called."""


def sentences(summary: Mapping[str, Any], families: Mapping[str, str]) -> list[str]:
    """Return what `summary` says, for readers who look at nothing else.

    `families` maps each method to "subset" (solves a subset), "stream" (`kfac-stream` in any phase), "solver" or
    "first-order".
    """
    lines = []
    for budget in summary["budgets"]:
        lines += _at_budget(summary, families, budget)
    lines += _cost_of_tuning(summary)
    lines += _targets(summary)
    if summary.get("objective"):
        lines.append(summary["objective"]["text"])
    lines.append(_how_tested(summary))
    if summary["failures"]:
        lines.append(f"{len(summary['failures'])} cells failed and are left out; the report lists them.")
    return lines


def _at_budget(summary: Mapping[str, Any], families: Mapping[str, str], budget: float) -> list[str]:
    rows = [row for row in summary["results"] if row["budget"] == budget and row["n"] > 0]
    if not rows:
        return [f"At {_budget(summary, budget)} no cell was finished."]
    pairs = _pairs(summary, budget)
    ordered = sorted(rows, key=lambda row: row["mean"], reverse=summary["higher_is_better"])
    best = ordered[0]
    lines = [
        f"At {_budget(summary, budget)} {best['method']} has the best mean test {summary['metric']}, "
        f"{_value(summary, best['mean'])}{_interval(summary, best['interval'])}"
        f"{_objective_reached(summary, best, rows) if summary['metric'] == 'mse' else ''}"
        f"{_relations(best['method'], [row['method'] for row in ordered[1:]], pairs)}."
    ]
    if summary.get("baseline") is not None:
        lines += _against_baseline(summary["baseline"], [row["method"] for row in ordered], pairs)
    rival = _best_of(ordered, families, "first-order")
    for family, called in CONTENDERS.items():
        contender = _best_of(ordered, families, family)
        if rival is not None and contender is not None and (contender["method"], rival["method"]) in pairs:
            lines.append(_against_rival(summary, called, contender, rival, pairs))
    return [*lines, *_power(summary, budget)]


def _against_baseline(baseline: str, ordered: Sequence[str], pairs: Mapping[tuple[str, str], Row]) -> list[str]:
    """Return one sentence on every method that was tested against the baseline."""
    named = {
        verdict: [name for name in ordered if (name, baseline) in pairs and pairs[name, baseline]["verdict"] == verdict]
        for verdict in ("better", "worse", "no difference")
    }
    parts = [f"{verdict}: {_list(names)}" for verdict, names in named.items() if names]
    return [f"Against {baseline}, {'; '.join(parts)}."] if parts else []


def _power(summary: Mapping[str, Any], budget: float) -> list[str]:
    """Return what difference the tests at one budget would have shown, in the units of the metric."""
    found = sorted(
        row["detectable"]
        for row in summary["comparisons"]
        if (row["budget"], row["metric"]) == (budget, summary["metric"]) and row.get("detectable") is not None
    )
    if not found:
        return []
    middle = found[len(found) // 2] if len(found) % 2 else (found[len(found) // 2 - 1] + found[len(found) // 2]) / 2
    spread = "" if len(found) == 1 else f" ({_size(summary, found[0])} to {_size(summary, found[-1])}, by pair)"
    return [
        f"The smallest difference that {len(summary['seeds'])} seeds with this scatter show with "
        f"{100 * summary['power']:.0f} % power is {_size(summary, middle)}{spread}."
    ]


def _objective_reached(summary: Mapping[str, Any], row: Row, rows: Sequence[Row]) -> str:
    """Return the training objective beside a test loss, where all methods minimise the same."""
    values = sorted(other["objective_mean"] for other in rows if other.get("objective_mean") is not None)
    same = summary.get("objective", {}).get("kind") == "same"
    if not same or row.get("objective_mean") is None or len(values) < 2:
        return ""
    place = values.index(row["objective_mean"]) + 1
    order = "lowest" if place == 1 else f"{place}{ {2: 'nd', 3: 'rd'}.get(place, 'th') } lowest"
    return f" (training objective {row['objective_mean']:.4g}, the {order} of {len(values)})"


def _best_of(ordered: Sequence[Row], families: Mapping[str, str], family: str) -> Row | None:
    return next((row for row in ordered if families[row["method"]] == family), None)


def _relations(best: str, others: Sequence[str], pairs: Mapping[tuple[str, str], Row]) -> str:
    tested = [name for name in others if (best, name) in pairs]
    better = [name for name in tested if pairs[best, name]["verdict"] == "better"]
    equal = [name for name in tested if pairs[best, name]["verdict"] == "no difference"]
    parts = []
    if better:
        parts.append(f"it is better than {_list(better)}")
    if equal:
        parts.append(f"no difference is shown {'to' if better else 'between it and'} {_list(equal)}")
    return "; " + "; ".join(parts) if parts else ""


def _against_rival(
    summary: Mapping[str, Any], called: str, contender: Row, rival: Row, pairs: Mapping[tuple[str, str], Row]
) -> str:
    a, b = contender["method"], rival["method"]
    pair = pairs[a, b]
    facts = f"{_difference(summary, pair['difference'])}{_interval(summary, pair['interval'])}"
    p = "" if pair["p_adjusted"] is None else f", p = {pair['p_adjusted']:.2g} after correction"
    said = "not shown to differ from" if pair["verdict"] == "no difference" else f"{pair['verdict']} than"
    return f"{called}, {a}, is {said} the best first-order one, {b}: {facts}{p}."


def _cost_of_tuning(summary: Mapping[str, Any]) -> list[str]:
    costs = {
        method["name"]: sum(search["epoch_equivalents"] for search in method["tuning"]) / max(len(summary["seeds"]), 1)
        for method in summary["methods"]
        if method["tuning"]
    }
    if not any(costs.values()):
        return []
    low, high = min(costs, key=lambda name: costs[name]), max(costs, key=lambda name: costs[name])
    ends = Counter(
        f"{method['name']} at {search['budget']:g}"
        for method in summary["methods"]
        for search in method["tuning"]
        if search["setting"] is not None and not search["inside"]
    )
    text = (
        f"Tuning cost {costs[low]:.3g} ({low}) to {costs[high]:.3g} ({high}) epoch-equivalents per method and seed, "
        f"over all budgets, in {summary['trials']} trials per search; it is not in the budgets and stands under "
        "cost including tuning."
    )
    lines = [text]
    if ends:
        outside = [f"{name} ({count} of {len(summary['seeds'])} searches)" for name, count in ends.items()]
        lines.append(f"The best value lay at the end of what was tried: {_list(outside)}.")
    return lines


def _targets(summary: Mapping[str, Any]) -> list[str]:
    lines = []
    for target in dict.fromkeys(row["target"] for row in summary["time_to_target"]):
        rows = [row for row in summary["time_to_target"] if row["target"] == target and row["reached"] == row["of"]]
        if not rows:
            lines.append(f"No method reached a held-out loss of {target:g} with every seed.")
            continue
        cheapest = min(rows, key=lambda row: row["cost_mean"])
        fastest = min(rows, key=lambda row: row["seconds_mean"])
        lines.append(
            f"A held-out loss of {target:g} was reached with the least cost by {cheapest['method']} "
            f"({cheapest['cost_mean']:.3g} epoch-equivalents) and in the least time by {fastest['method']} "
            f"({fastest['seconds_mean']:.3g} s), of the {len(rows)} method{'' if len(rows) == 1 else 's'} that reached "
            "it with every seed"
            f"{_objective_of(summary, cheapest['method'])}."
        )
    return lines


def _objective_of(summary: Mapping[str, Any], method: str) -> str:
    """Return the training objective of the method that was quickest to a held-out loss."""
    budget = max(summary["budgets"])
    rows = [row for row in summary["results"] if row["budget"] == budget and row["n"] > 0]
    mine = next((row for row in rows if row["method"] == method), None)
    reached = "" if mine is None else _objective_reached(summary, mine, rows)
    return f"; {method} after {_budget(summary, budget)}:{reached.replace('(', '').replace(')', '')}" if reached else ""


def _how_tested(summary: Mapping[str, Any]) -> str:
    n = len(summary["seeds"])
    if n < 2:
        return "One seed tells nothing about chance: no test was made."
    methods = len(summary["methods"])
    if methods < 2:
        return "One method has nothing to be compared with: no test was made."
    baseline = summary.get("baseline")
    pairs = methods * (methods - 1) // 2 if baseline is None else methods - 1
    family = "all pairs of methods" if baseline is None else f"the comparisons with {baseline}"
    remedy = "more seeds, fewer methods or a baseline show" if baseline is None else "more seeds show"
    power = f" Among {pairs} pairs the first must have p < {0.05 / pairs:.2g}: {remedy} more."
    luck = (
        " Each seed was tuned on seeds of its own, so that the luck of tuning is counted."
        if summary.get("tune")
        else ""
    )
    return (
        f"Tests are paired over {n} seeds, with Holm's correction over {family} at one budget; "
        "no difference shown means that chance could explain it, not that the methods are equal."
        f"{luck}{power if pairs > 1 else ''}"
    )


def _pairs(summary: Mapping[str, Any], budget: float) -> dict[tuple[str, str], Row]:
    opposite = {"better": "worse", "worse": "better", "no difference": "no difference"}
    pairs: dict[tuple[str, str], Row] = {}
    for row in summary["comparisons"]:
        if row["budget"] != budget or row["metric"] != summary["metric"]:
            continue
        pairs[row["a"], row["b"]] = row
        interval = row["interval"] and [-row["interval"][1], -row["interval"][0]]
        difference = None if row["difference"] is None else -row["difference"]
        turned = {"verdict": opposite[row["verdict"]], "difference": difference, "interval": interval}
        pairs[row["b"], row["a"]] = {**row, **turned}
    return pairs


def _budget(summary: Mapping[str, Any], budget: float) -> str:
    unit = "second" if summary["budget_unit"] == "seconds" else "epoch-equivalent"
    return f"{budget:g} {unit}{'' if budget == 1 else 's'}"


def _value(summary: Mapping[str, Any], value: float) -> str:
    return f"{100 * value:.2f} %" if summary["metric"] == "accuracy" else f"{value:.4g}"


def _difference(summary: Mapping[str, Any], value: float | None) -> str:
    if value is None:
        return "no seed in common"
    return f"{100 * value:+.2f} points" if summary["metric"] == "accuracy" else f"{value:+.3g}"


def _size(summary: Mapping[str, Any], value: float) -> str:
    return f"{100 * value:.2f} points" if summary["metric"] == "accuracy" else f"{value:.3g}"


def _interval(summary: Mapping[str, Any], interval: Interval | Sequence[float] | None) -> str:
    if interval is None:
        return ""
    scale, digits = (100, ".2f") if summary["metric"] == "accuracy" else (1, ".4g")
    return f" [{scale * interval[0]:{digits}}, {scale * interval[1]:{digits}}]"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
