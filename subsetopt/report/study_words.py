"""What was compared at what cost, in words: the facts that stand above the tables, and the command that made them."""

from __future__ import annotations

import shlex

from subsetopt.report.study_files import Study
from subsetopt.report.study_svg import number
from subsetopt.report.study_tables import cost_text, unit_title


def study_facts(study: Study) -> list[tuple[str, str]]:
    """Return (name, text) pairs: what was compared, at which budgets, and what it cost altogether."""
    budgets = ", ".join(number(budget) for budget in study.budgets)
    pairs = [
        ("Data set", study.dataset),
        ("Model", study.model),
        ("Methods", ", ".join(study.names)),
        ("Equal budget", f"{budgets} {unit_title(study)} for every method"),
        ("Seeds", f"{study.seed_count}, the same initial weights for every method"),
        ("Cost altogether", _total_cost(study)),
        ("Failed cells", str(len(study.failures)) if study.failures else "none"),
    ]
    return [(name, text) for name, text in pairs if text]


def _total_cost(study: Study) -> str:
    rows = [row for row in study.results if row.metric == study.metric and row.cost_mean is not None]
    if not rows:
        return ""
    runs = sum(row.n * (row.cost_mean or 0.0) for row in rows)
    seconds = sum(row.n * (row.seconds_mean or 0.0) for row in rows)
    tuning = sum(max((row.cost_including_tuning or row.cost_mean or 0.0) - (row.cost_mean or 0.0), 0.0) for row in rows)
    text = f"{cost_text(runs)} epoch-equivalents in {cost_text(seconds)} seconds for the runs"
    return f"{text}, and {cost_text(tuning)} epoch-equivalents for tuning" if tuning else text


def command_line(study: Study) -> str:
    """Return the command that made the study, quoted for a shell where it came as a list."""
    return study.command if isinstance(study.command, str) else shlex.join(study.command)
