"""The parts of `summary.json` that come as mappings by budget or as lists: ranks, learning rates, tuning, versions.

What a study leaves out, or writes in a shape unknown here, is shown as missing rather than refused: these parts
explain the answers, they are not the answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REGULARISATION = ("l2", "weight_decay")


@dataclass(frozen=True)
class TuningTrial:
    """Values that were tried at one budget: `settings` by name, their validation loss, and how often they were taken.

    `score` is the mean over the searches that tried them, None where it is not finite; `searches` are those at the
    budget.
    """

    budget: float | None
    settings: tuple[str, ...]
    values: tuple[float, ...]
    score: float | None
    taken: int
    searches: int


@dataclass(frozen=True)
class TunedValue:
    """A value that a setting got at one budget, by `count` of the `searches` there."""

    budget: float | None
    setting: str
    value: float
    count: int
    searches: int


def rank_of(ranks: Any, method: str, budget: float) -> float | None:
    """Return the mean rank of a method at a budget, from `[{method, budget, rank}]` or `{method: rank}`."""
    if isinstance(ranks, Mapping):
        return _float(ranks.get(method))
    for entry in ranks if isinstance(ranks, list) else ():
        if isinstance(entry, Mapping) and entry.get("method") == method and entry.get("budget", budget) == budget:
            return next((rank for key in ("rank", "mean_rank", "mean") if (rank := _float(entry.get(key)))), None)
    return None


def tuned_values(lr: Any, tuning: Any) -> list[TunedValue]:
    """Return what was tuned, else the learning rate from a number or `{budget: lr}`; most frequent values first."""
    found: Counter[tuple[float | None, str, float]] = Counter()
    searches: Counter[float | None] = Counter()
    for entry in _entries(tuning):
        budget = _float(entry.get("budget"))
        searches[budget] += 1
        chosen = ((name, _float(entry.get(name))) for name in _settings(entry))
        found.update((budget, name, value) for name, value in chosen if value is not None)
    if not found:
        pairs = lr.items() if isinstance(lr, Mapping) else [(None, lr)]
        rates = ((_float(budget), _float(rate)) for budget, rate in pairs)
        found.update((budget, "lr", rate) for budget, rate in rates if rate is not None)
    order = list(dict.fromkeys((budget, name) for budget, name, _ in found))
    ranked = sorted(found.items(), key=lambda item: (order.index(item[0][:2]), -item[1], item[0][2]))
    return [TunedValue(*key, count, max(searches[key[0]], 1)) for key, count in ranked]


def trials(tuning: Any) -> list[TuningTrial]:
    """Return what was tried, of `[{budget, setting: "lr", lr: VALUE, trials: [{lr, score}]}]`, an entry per search.

    Searches at one budget are joined, in the order of budgets and values.
    """
    scores: dict[tuple[float | None, tuple[str, ...], tuple[float, ...]], list[float | None]] = {}
    taken: Counter[tuple[float | None, tuple[str, ...], tuple[float, ...]]] = Counter()
    searches: Counter[float | None] = Counter()
    for entry in _entries(tuning):
        budget, names = _float(entry.get("budget")), _settings(entry)
        searches[budget] += 1
        for trial in _entries(entry.get("trials")):
            if (values := _values(trial, names)) is not None:
                key = (budget, names, values)
                scores.setdefault(key, []).append(_float(trial.get("score")))
                taken[key] += values == _values(entry, names)
    budgets = list(dict.fromkeys(budget for budget, _, _ in scores))
    return [
        TuningTrial(*key, _mean(scores[key]), taken[key], searches[key[0]])
        for key in sorted(scores, key=lambda key: (budgets.index(key[0]), key[2]))
    ]


def _entries(content: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in content if isinstance(entry, Mapping)] if isinstance(content, list) else []


def _settings(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of what a search chose: the method's own setting, and its regularisation where tuned."""
    own = str(entry.get("setting") or "lr")
    return (own, *(name for name in REGULARISATION if name in entry and name != own))


def _values(entry: Mapping[str, Any], names: Sequence[str]) -> tuple[float, ...] | None:
    values = tuple(value for name in names if (value := _float(entry.get(name))) is not None)
    return values if len(values) == len(names) else None


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if len(known) == len(scores) else None


def facts(content: Any) -> list[tuple[str, str]]:
    """Return versions or machine as (name, text) pairs, whatever their nesting."""
    if isinstance(content, Mapping):
        return [(f"{key} {inner}".strip(), text) for key, value in content.items() for inner, text in facts(value)]
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [("", ", ".join(map(str, content)))]
    return [] if content is None else [("", str(content))]


def _float(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
