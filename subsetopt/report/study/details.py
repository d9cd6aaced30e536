"""Tables behind the answers: the methods, their tuning, the failures, the machine."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import fmean

from subsetopt.documents.comparison import ComparisonDocument, MethodEntry, TuningSearch
from subsetopt.report.study.svg import number
from subsetopt.report.study.tables import StudyTable, TableCell, plain_table
from subsetopt.report.study.texts import MISSING, budget_text, cost_text, epochs_text, loss_text


def methods_table(study: ComparisonDocument) -> StudyTable:
    """Return what each method is and which setting was tuned to which value at each budget."""
    rows = [(method.name, method.description or MISSING, _tuned(method)) for method in study.methods]
    return plain_table("The methods", ("Method", "What it is", "Tuned setting (budget: value)"), rows)


def _tuned(method: MethodEntry) -> str:
    values = [(s.budget, s.setting or "lr", s.value) for s in method.tuning if s.value is not None]
    values += [(s.budget, s.decay_setting or "l2", s.decay) for s in method.tuning if s.decay is not None]
    if not values:
        values = [(float(budget), "lr", lr) for budget, lr in (method.lr or {}).items() if lr is not None]
    settings = list(dict.fromkeys(setting for _, setting, _ in values))
    return "; ".join(f"{setting} {_by_budget(values, setting)}" for setting in settings) or MISSING


def _by_budget(values: list[tuple[float, str, float]], setting: str) -> str:
    """Return `1: 0.01, 3: 0.0316 (4 of 5) or 0.1`: by budget, the values and how many searches took the first."""
    texts = []
    for budget in dict.fromkeys(budget for budget, name, _ in values if name == setting):
        taken = Counter(value for at, name, value in values if (at, name) == (budget, setting))
        ranked = sorted(taken, key=lambda value: (-taken[value], value))
        share = f" ({taken[ranked[0]]} of {taken.total()})" if len(ranked) > 1 else ""
        texts.append(f"{number(budget)}: {' or '.join([number(ranked[0]) + share, *map(number, ranked[1:])])}")
    return ", ".join(texts)


def tuning_table(study: ComparisonDocument) -> StudyTable | None:
    """Return every value that was tried and its validation loss, None where nothing was tuned."""
    rows = tuple(_tuning_rows(study))
    if not rows:
        return None
    return StudyTable(
        "Every value that was tried",
        ("Method", "Budget", "Setting", "Value", "Validation loss", "Taken"),
        rows,
        numeric=frozenset((1, 3, 4)),
        note="Chosen by validation loss, on seeds of their own, by a search for each seed of the comparison; the loss "
        "is the mean over the searches that tried a value. All searches have the same number of trials: beyond the "
        "best value while it lies at an end, else closer to it.",
    )


def _tuning_rows(study: ComparisonDocument) -> Iterator[tuple[TableCell, ...]]:
    for method in study.methods:
        for budget in dict.fromkeys(search.budget for search in method.tuning):
            searches = [search for search in method.tuning if search.budget == budget]
            settings = ", ".join(filter(None, (searches[0].setting, searches[0].decay_setting))) or MISSING
            for value, decay in sorted(_tried(searches)):
                scores = _tried(searches)[value, decay]
                score = None if None in scores else fmean(score for score in scores if score is not None)
                taken = sum((search.value, search.decay or 0.0) == (value, decay) for search in searches)
                yield (
                    TableCell(method.name),
                    TableCell(cost_text(budget), budget),
                    TableCell(settings),
                    TableCell(cost_text(value) + (f", {cost_text(decay)}" if decay else ""), value),
                    TableCell("not finite" if score is None else loss_text(score), score),
                    TableCell(_taken(taken, len(searches)), style="better" if taken else ""),
                )


def _tried(searches: Sequence[TuningSearch]) -> dict[tuple[float, float], list[float | None]]:
    """Return the scores of every value, and regularisation beside it (0 where that was not searched)."""
    scores: dict[tuple[float, float], list[float | None]] = {}
    for search in searches:
        for trial in search.trials:
            if trial.value is not None:
                scores.setdefault((trial.value, trial.decay or 0.0), []).append(trial.score)
    return scores


def _taken(count: int, searches: int) -> str:
    return "" if not count else "taken" if searches == 1 else f"{count} of {searches}"


def tuning_cost_table(study: ComparisonDocument) -> StudyTable | None:
    """Return what tuning added to each method's cost, per budget; None where it added nothing anywhere."""
    shares = {
        (row.method, row.budget): row.cost_including_tuning - row.cost_mean
        for row in study.results
        if row.metric == study.metric and row.cost_including_tuning is not None and row.cost_mean is not None
    }
    if not any(shares.values()):
        return None
    rows = tuple(
        (TableCell(name), *(TableCell(cost_text(cost := shares.get((name, budget))), cost) for budget in study.budgets))
        for name in study.names
    )
    columns = ("Method", *(f"Budget {number(budget)}" for budget in study.budgets))
    return StudyTable("Cost of tuning in epoch-equivalents", columns, rows, frozenset(range(1, len(columns))))


def failures_table(study: ComparisonDocument) -> StudyTable | None:
    """Return the cells that failed with their errors, None where all went well."""
    rows = [(failure.cell, failure.error) for failure in study.failures]
    return plain_table("Cells that failed", ("Cell", "Error"), rows) if rows else None


def environment_table(study: ComparisonDocument) -> StudyTable | None:
    """Return versions and machine, None where the study does not say."""
    rows = [(name, str(value)) for name, value in (study.versions | study.machine).items() if value is not None]
    return plain_table("Versions and machine", ("What", "Which"), rows) if rows else None


def study_facts(study: ComparisonDocument) -> list[tuple[str, str]]:
    """Return (name, text) pairs: what was compared, at which budgets, and what it cost altogether."""
    *smaller, largest = study.budgets
    budgets = ", ".join([*(number(budget) for budget in smaller), budget_text(study, largest)])
    pairs = [
        ("Data set", study.dataset),
        ("Model", study.model),
        ("Methods", ", ".join(study.names)),
        ("Equal budget", f"{budgets} for every method"),
        ("Seeds", f"{study.seed_count}, the same initial weights for every method"),
        ("Cost altogether", _total_cost(study)),
        ("Failed cells", str(len(study.failures)) if study.failures else "none"),
    ]
    return [(name, text) for name, text in pairs if text]


def _total_cost(study: ComparisonDocument) -> str:
    rows = [row for row in study.results if row.metric == study.metric and row.cost_mean is not None]
    if not rows:
        return ""
    runs = sum(row.n * (row.cost_mean or 0.0) for row in rows)
    seconds = sum(row.n * (row.seconds_mean or 0.0) for row in rows)
    tuning = sum(max((row.cost_including_tuning or row.cost_mean or 0.0) - (row.cost_mean or 0.0), 0.0) for row in rows)
    text = f"{epochs_text(runs)} in {cost_text(seconds)} s for the runs"
    return f"{text}, and {epochs_text(tuning)} for tuning" if tuning else text


def command_line(study: ComparisonDocument) -> str:
    """Return the command that made the study, quoted for a shell where it came as a list."""
    return study.command if isinstance(study.command, str) else shlex.join(study.command)
