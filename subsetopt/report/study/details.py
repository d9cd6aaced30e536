"""Tables behind the answers: the methods, their tuning, the failures, the machine."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from subsetopt.report.study.files import MethodEntry, StudyDocument
from subsetopt.report.study.parts import TunedValue, TuningTrial, facts, trials, tuned_values
from subsetopt.report.study.svg import number
from subsetopt.report.study.tables import MISSING, StudyTable, TableCell, cost_text, loss_text, plain_table, unit_title


def methods_table(study: StudyDocument) -> StudyTable:
    """Return what each method is and which setting was tuned to which value at each budget."""
    rows = [(method.name, method.description or MISSING, _tuned(method)) for method in study.methods]
    return plain_table("The methods", ("Method", "What it is", "Tuned setting (budget: value)"), rows)


def _tuned(method: MethodEntry) -> str:
    values = tuned_values(method.lr, method.tuning)
    settings = list(dict.fromkeys(found.setting for found in values))
    return "; ".join(f"{setting} {_by_budget(values, setting)}" for setting in settings) or MISSING


def _by_budget(values: list[TunedValue], setting: str) -> str:
    """Return `1: 0.01, 3: 0.0316 (4 of 5) or 0.1`: by budget, the values and how many searches took the first."""
    mine = [found for found in values if found.setting == setting]
    texts = []
    for budget in dict.fromkeys(found.budget for found in mine):
        first, *others = (found for found in mine if found.budget == budget)
        text = " or ".join([_counted(first) if others else number(first.value), *(number(o.value) for o in others)])
        texts.append(text if budget is None else f"{number(budget)}: {text}")
    return ", ".join(texts)


def _counted(found: TunedValue) -> str:
    return f"{number(found.value)} ({found.count} of {found.searches})"


def tuning_table(study: StudyDocument) -> StudyTable | None:
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


def _tuning_rows(study: StudyDocument) -> Iterator[tuple[TableCell, ...]]:
    for method in study.methods:
        for trial in trials(method.tuning):
            yield (
                TableCell(method.name),
                TableCell(cost_text(trial.budget), trial.budget),
                TableCell(", ".join(trial.settings)),
                TableCell(", ".join(map(cost_text, trial.values)), trial.values[0]),
                TableCell("not finite" if trial.score is None else loss_text(trial.score), trial.score),
                TableCell(_taken(trial), style="better" if trial.taken else ""),
            )


def _taken(trial: TuningTrial) -> str:
    if trial.searches == 1:
        return "taken" if trial.taken else ""
    return f"{trial.taken} of {trial.searches}" if trial.taken else ""


def tuning_cost_table(study: StudyDocument) -> StudyTable | None:
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


def failures_table(study: StudyDocument) -> StudyTable | None:
    """Return the cells that failed with their errors, None where all went well."""
    rows = [(failure.cell, failure.error) for failure in study.failures]
    return plain_table("Cells that failed", ("Cell", "Error"), rows) if rows else None


def environment_table(study: StudyDocument) -> StudyTable | None:
    """Return versions and machine, None where the study does not say."""
    rows = [*facts(study.versions), *((name or "machine", text) for name, text in facts(study.machine))]
    return plain_table("Versions and machine", ("What", "Which"), rows) if rows else None


def study_facts(study: StudyDocument) -> list[tuple[str, str]]:
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


def _total_cost(study: StudyDocument) -> str:
    rows = [row for row in study.results if row.metric == study.metric and row.cost_mean is not None]
    if not rows:
        return ""
    runs = sum(row.n * (row.cost_mean or 0.0) for row in rows)
    seconds = sum(row.n * (row.seconds_mean or 0.0) for row in rows)
    tuning = sum(max((row.cost_including_tuning or row.cost_mean or 0.0) - (row.cost_mean or 0.0), 0.0) for row in rows)
    text = f"{cost_text(runs)} epoch-equivalents in {cost_text(seconds)} seconds for the runs"
    return f"{text}, and {cost_text(tuning)} epoch-equivalents for tuning" if tuning else text


def command_line(study: StudyDocument) -> str:
    """Return the command that made the study, quoted for a shell where it came as a list."""
    return study.command if isinstance(study.command, str) else shlex.join(study.command)
