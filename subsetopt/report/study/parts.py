"""The parts of `summary.json` that come as mappings by budget or as lists: ranks, learning rates, tuning, versions.

What a study leaves out, or writes in a shape unknown here, is shown as missing rather than refused: these parts
explain the answers, they are not the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TuningTrial:
    """One value of a tuned setting at one budget, its validation loss (None: not finite), and whether it was taken."""

    budget: float | None
    setting: str
    value: float | None
    score: float | None
    taken: bool


def rank_of(ranks: Any, method: str, budget: float) -> float | None:
    """Return the mean rank of a method at a budget, from `[{method, budget, rank}]` or `{method: rank}`."""
    if isinstance(ranks, Mapping):
        return _float(ranks.get(method))
    for entry in ranks if isinstance(ranks, list) else ():
        if isinstance(entry, Mapping) and entry.get("method") == method and entry.get("budget", budget) == budget:
            return next((rank for key in ("rank", "mean_rank", "mean") if (rank := _float(entry.get(key)))), None)
    return None


def tuned_values(lr: Any, tuning: Any) -> list[tuple[float | None, str, float]]:
    """Return (budget, setting, value) of what was tuned, else the learning rate from a number or `{budget: lr}`."""
    entries = [(_float(entry.get("budget")), _setting(entry), _taken(entry)) for entry in _entries(tuning)]
    if not any(value is not None for _, _, value in entries):
        pairs = lr.items() if isinstance(lr, Mapping) else [(None, lr)]
        entries = [(_float(budget), "lr", _float(value)) for budget, value in pairs]
    return [(budget, setting, value) for budget, setting, value in entries if value is not None]


def trials(tuning: Any) -> list[TuningTrial]:
    """Return every trial of `[{budget, setting: "lr", lr: VALUE, trials: [{lr, score}]}]`, in its order."""
    return [
        TuningTrial(
            _float(entry.get("budget")), _setting(entry), value, _float(trial.get("score")), value == _taken(entry)
        )
        for entry in _entries(tuning)
        for trial in _entries(entry.get("trials"))
        if (value := _float(trial.get(_setting(entry)))) is not None
    ]


def _entries(content: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in content if isinstance(entry, Mapping)] if isinstance(content, list) else []


def _setting(entry: Mapping[str, Any]) -> str:
    return str(entry.get("setting") or "lr")


def _taken(entry: Mapping[str, Any]) -> float | None:
    return _float(entry.get(_setting(entry)))


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
