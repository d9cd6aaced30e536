"""The parts of `summary.json` that come as mappings by budget or as lists: ranks, learning rates, tuning, versions.

What a study leaves out, or writes in a shape unknown here, is shown as missing rather than refused: these parts
explain the answers, they are not the answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Trial:
    """One learning rate that was tried at one budget, its validation score, and whether it was taken."""

    budget: float | None
    lr: float | None
    score: float | None
    chosen: bool


def rank_of(ranks: Any, method: str, budget: float) -> float | None:
    """Return the mean rank of a method at a budget, from `[{method, budget, rank}]` or `{method: rank}`."""
    if isinstance(ranks, Mapping):
        return _float(ranks.get(method))
    for entry in ranks if isinstance(ranks, list) else ():
        if isinstance(entry, Mapping) and entry.get("method") == method and entry.get("budget", budget) == budget:
            return next((rank for key in ("rank", "mean_rank", "mean") if (rank := _float(entry.get(key)))), None)
    return None


def learning_rates(lr: Any) -> list[tuple[float | None, float]]:
    """Return (budget, learning rate) pairs from a number, `{budget: lr}` or `[{budget, lr}]`; budget None: all."""
    if isinstance(lr, Mapping):
        pairs = [(_float(budget), _float(value)) for budget, value in lr.items()]
    elif isinstance(lr, list):
        pairs = [(_float(entry.get("budget")), _float(entry.get("lr"))) for entry in lr if isinstance(entry, Mapping)]
    else:
        pairs = [(None, _float(lr))]
    return [(budget, value) for budget, value in pairs if value is not None]


def trials(tuning: Any) -> list[Trial]:
    """Return every tuning trial, from `[{budget, trials: [{lr, score}], lr}]` or flat `[{budget, lr, score}]`."""
    entries = tuning if isinstance(tuning, list) else [tuning]
    return [trial for entry in entries if isinstance(entry, Mapping) for trial in _trials_of(entry)]


def _trials_of(entry: Mapping[str, Any]) -> Iterator[Trial]:
    budget, best = _float(entry.get("budget")), _float(entry.get("lr"))
    inner = next((entry[key] for key in ("trials", "grid", "scores") if isinstance(entry.get(key), list)), None)
    if inner is None:
        yield Trial(budget, best, _score(entry), bool(entry.get("chosen")))
        return
    for trial in inner:
        if isinstance(trial, Mapping):
            lr = _float(trial.get("lr"))
            yield Trial(budget, lr, _score(trial), bool(trial.get("chosen", lr is not None and lr == best)))


def _score(entry: Mapping[str, Any]) -> float | None:
    keys = ("score", "validation_loss", "loss")
    return next((value for key in keys if (value := _float(entry.get(key))) is not None), None)


def facts(content: Any) -> list[tuple[str, str]]:
    """Return versions or machine as (name, text) pairs, whatever their nesting."""
    if isinstance(content, Mapping):
        return [
            (f"{key} {inner}".strip(), text) for key, value in content.items() for inner, text in facts(value)
        ]  # fmt: skip
    if isinstance(content, Sequence) and not isinstance(content, str):
        return [("", ", ".join(map(str, content)))]
    return [] if content is None else [("", str(content))]


def _float(value: Any) -> float | None:
    try:
        return None if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
