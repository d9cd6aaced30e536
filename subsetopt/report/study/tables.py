"""The tables of a study, made once and written twice: as HTML and as Markdown.

A cell carries the text that people read and, where columns sort, the exact number behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from subsetopt.documents.comparison import ComparisonDocument, ComparisonEntry, ResultEntry, TimeToTarget
from subsetopt.report.study.svg import number
from subsetopt.report.study.texts import (
    MISSING,
    budget_text,
    cost_text,
    inside,
    interval_text,
    loss_text,
    metric_text,
    metric_title,
    p_equation,
    p_text,
    signed,
)

_MARKS = {"better": "▲", "worse": "▼", "no difference": "="}


@dataclass(frozen=True)
class TableCell:
    """One cell of a table: text, the number it sorts by, a style, and a bar as shares of the cell's width."""

    text: str
    sort: float | None = None
    style: str = ""
    bar: float | None = None
    strip: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class StudyTable:
    """Rows under headings; the first column names the row, `numeric` has the columns that hold numbers."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    numeric: frozenset[int] = frozenset()
    sortable: bool = True
    note: str = ""


def results_at(study: ComparisonDocument, budget: float) -> list[ResultEntry]:
    """Return the results of the study's metric at a budget, best first; those without a value come last."""
    sign = -1.0 if study.higher_is_better else 1.0
    rows = [row for row in study.results if row.budget == budget and row.metric == study.metric]
    return sorted(rows, key=lambda row: (row.mean is None, sign * (row.mean or 0.0)))


def results_table(study: ComparisonDocument, budget: float) -> StudyTable:
    """Return quality and cost of every method at one budget, best first."""
    rows = results_at(study, budget)
    columns = (
        "Method",
        metric_title(study.metric),
        "95 % interval",
        "Test loss",
        *(["Objective"] if _same_objective(study) else []),
        "Cost",
        "Cost with tuning",
        "Seconds",
        "Rank",
        "Seeds",
    )
    limits = _limits(rows)
    return StudyTable(
        f"After {budget_text(study, budget)}",
        columns,
        tuple(_result_row(study, row, limits) for row in rows),
        numeric=frozenset(range(1, len(columns))),
        note="Means over seeds. Cost in epoch-equivalents: forward and backward passes over the training set."
        + (" Objective: the loss on all training data with its L2 penalty." if _same_objective(study) else "")
        + _friedman_note(study, budget),
    )


def _same_objective(study: ComparisonDocument) -> bool:
    """Tell whether all methods minimise one function, whose value then stands beside the test loss."""
    same = study.objective is not None and study.objective.kind == "same"
    return same and any(row.objective_mean is not None for row in study.results)


def _friedman_note(study: ComparisonDocument, budget: float) -> str:
    p = next((row.p for row in study.friedman if row.budget == budget and row.p is not None), None)
    return "" if p is None else f" Rank is the mean over seeds; Friedman's test that all rank alike: {p_equation(p)}."


def _result_row(
    study: ComparisonDocument, row: ResultEntry, limits: tuple[float, float] | None
) -> tuple[TableCell, ...]:
    rank = study.rank_of(row.method, row.budget)
    interval = inside(row.interval, row.metric)
    width = None if interval is None or None in interval else (interval[1] or 0) - (interval[0] or 0)
    seeds = f"{row.n}" if row.n >= study.seed_count else f"{row.n} of {study.seed_count}"
    return (
        TableCell(row.method),
        TableCell(metric_text(row.mean, row.metric), row.mean),
        TableCell(interval_text(interval, row.metric), width, strip=_strip(row, limits)),
        TableCell(loss_text(row.loss_mean), row.loss_mean),
        *([TableCell(loss_text(row.objective_mean), row.objective_mean)] if _same_objective(study) else []),
        TableCell(cost_text(row.cost_mean), row.cost_mean),
        TableCell(cost_text(row.cost_including_tuning), row.cost_including_tuning),
        TableCell(cost_text(row.seconds_mean), row.seconds_mean),
        TableCell(MISSING if rank is None else number(rank), rank),
        TableCell(seeds, row.n, style="" if row.n >= study.seed_count else "worse"),
    )


def _limits(rows: Sequence[ResultEntry]) -> tuple[float, float] | None:
    values = [v for row in rows for v in (row.mean, *(row.interval or ())) if v is not None]
    if rows and rows[0].metric == "accuracy":
        values = [min(max(value, 0.0), 1.0) for value in values]
    return (min(values), max(values)) if values and max(values) > min(values) else None


def _strip(row: ResultEntry, limits: tuple[float, float] | None) -> tuple[float, float, float] | None:
    if limits is None or row.mean is None or row.interval is None:
        return None
    low, high = row.interval
    if low is None or high is None:
        return None
    span = limits[1] - limits[0]
    shares = [min(max((value - limits[0]) / span, 0.0), 1.0) for value in (low, row.mean, high)]
    return shares[0], shares[1], shares[2]


def comparison_groups(study: ComparisonDocument) -> list[tuple[float, str]]:
    """Return the (budget, metric) pairs that were compared, in the order of the study."""
    return list(dict.fromkeys((row.budget, row.metric) for row in study.comparisons))


def comparison_matrix(study: ComparisonDocument, budget: float, metric: str) -> StudyTable:
    """Return a square table: is the method of the row better or worse than that of the column?"""
    verdicts: dict[tuple[str, str], TableCell] = {}
    for row in study.comparisons:
        if (row.budget, row.metric) == (budget, metric):
            verdicts[row.a, row.b] = _verdict_cell(row, row.verdict)
            verdicts.setdefault((row.b, row.a), _verdict_cell(row, row.reversed().verdict))
    names = [name for name in study.names if any(name in pair for pair in verdicts)]
    rows = tuple(
        (
            TableCell(a),
            *(TableCell("", style="self") if a == b else verdicts.get((a, b), TableCell(MISSING)) for b in names),
        )
        for a in names
    )
    return StudyTable(
        f"{metric_title(metric)} after {budget_text(study, budget)}: row against column",
        ("Row against column", *names),
        rows,
        sortable=False,
        note="▲ better, ▼ worse, = no difference; below each mark p, adjusted (Holm) for the number of pairs.",
    )


def _verdict_cell(row: ComparisonEntry, verdict: str) -> TableCell:
    p = row.p if row.p_adjusted is None else row.p_adjusted
    return TableCell(f"{_MARKS[verdict]} {p_text(p)}", style=verdict.replace("no difference", "same"))


def comparisons_table(study: ComparisonDocument) -> StudyTable:
    """Return every paired comparison with its difference, interval and p values."""
    rows = []
    for row in study.comparisons:
        accuracy = row.metric == "accuracy"
        difference = MISSING if row.difference is None else signed(row.difference, accuracy)
        rows.append(
            (
                TableCell(row.a),
                TableCell(row.b),
                TableCell(number(row.budget), row.budget),
                TableCell(metric_title(row.metric)),
                TableCell(difference, row.difference),
                TableCell(interval_text(row.interval, row.metric)),
                TableCell(p_text(row.p), row.p),
                TableCell(p_text(row.p_adjusted), row.p_adjusted),
                TableCell(_size(row.detectable, accuracy), row.detectable),
                TableCell(row.verdict, style=row.verdict.replace("no difference", "same")),
            )
        )
    return StudyTable(
        "Every paired comparison",
        ("A", "B", "Budget", "Metric", "A minus B", "95 % interval", "p", "p adjusted", "Seen with 80 % power", "A is"),
        tuple(rows),
        numeric=frozenset((2, 4, 6, 7, 8)),
        note="Accuracies differ in percentage points. Seen with 80 % power: the smallest true difference that this "
        "many seeds, with this scatter and after correction, would have shown in four studies of five.",
    )


def _size(value: float | None, accuracy: bool) -> str:
    return MISSING if value is None else f"{100 * value:.2f}" if accuracy else number(value)


def target_tables(study: ComparisonDocument) -> list[StudyTable]:
    """Return one table per target loss: what every method paid to reach it, with bars; quickest first."""
    targets = list(dict.fromkeys(row.target for row in study.time_to_target))
    return [
        _target_table([row for row in study.time_to_target if row.target == target], target, study.seed_count)
        for target in targets
    ]


def _target_table(rows: Sequence[TimeToTarget], target: float, seeds: int) -> StudyTable:
    cost_limit = max((row.cost_mean for row in rows if row.cost_mean is not None), default=0.0)
    seconds_limit = max((row.seconds_mean for row in rows if row.seconds_mean is not None), default=0.0)
    ordered = sorted(rows, key=lambda row: (row.cost_mean is None, row.cost_mean or 0.0))
    return StudyTable(
        f"Until the held-out loss first reaches {number(target, 4)}",
        ("Method", "Cost", "Seconds", "Reached"),
        tuple(
            (
                TableCell(row.method),
                _bar_cell(row.cost_mean, cost_limit),
                _bar_cell(row.seconds_mean, seconds_limit),
                TableCell(_reached(row, seeds), style="worse" if row.cost_mean is None else ""),
            )
            for row in ordered
        ),
        numeric=frozenset((1, 2)),
        note="Cost in epoch-equivalents without tuning, the least over budgets; mean over the seeds that reached it.",
    )


def _bar_cell(value: float | None, limit: float) -> TableCell:
    if value is None:
        return TableCell("never", None, style="worse")
    return TableCell(cost_text(value), value, bar=value / limit if limit > 0 else 0.0)


def _reached(row: TimeToTarget, seeds: int) -> str:
    return MISSING if row.reached is None else f"{row.reached} of {seeds if row.of is None else row.of}"


def plain_table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> StudyTable:
    """Return a table of texts that does not sort."""
    return StudyTable(caption, tuple(columns), tuple(tuple(map(TableCell, row)) for row in rows), sortable=False)
