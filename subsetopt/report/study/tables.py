"""The tables of a study, made once and written twice: as HTML and as Markdown.

A cell carries the text that people read and, where columns sort, the exact number behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from subsetopt.documents.comparison import ComparisonDocument, ComparisonEntry, Interval, ResultEntry, TimeToTarget
from subsetopt.report.study.svg import number

MISSING = "–"
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


def metric_text(value: float | None, metric: str) -> str:
    """Format a metric: accuracy in per cent, anything else with four significant digits."""
    if value is None:
        return MISSING
    return f"{100 * value:.2f} %" if metric == "accuracy" else number(value, 4)


def metric_title(metric: str) -> str:
    """Return the metric's name as a heading."""
    return {"accuracy": "Test accuracy", "mse": "Test MSE", "loss": "Test loss", "test_loss": "Test loss"}.get(
        metric, metric
    )


def cost_text(value: float | None) -> str:
    """Format epoch-equivalents or seconds with three significant digits."""
    return MISSING if value is None else number(value, 3)


def epochs_text(value: float) -> str:
    """Return a cost with its unit, in the singular for 1."""
    text = cost_text(value)
    return f"{text} epoch-equivalent{'' if text == '1' else 's'}"


def loss_text(value: float | None) -> str:
    """Format a loss with four decimals, a small or large one with four significant digits."""
    if value is None:
        return MISSING
    return f"{value:.4f}" if 0.01 <= abs(value) < 100 else number(value, 4)


def p_text(value: float | None) -> str:
    """Format a p value with two significant digits, below 0.001 as a bound."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else number(value, 2)


def p_equation(value: float) -> str:
    """Return "p = 0.03", or "p < 0.001"."""
    text = p_text(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def difference_text(value: float | None, metric: str) -> str:
    """Format a difference with its sign and, of accuracies, its unit: percentage points."""
    if value is None:
        return MISSING
    return f"{_signed(value, metric == 'accuracy')}{' points' if metric == 'accuracy' else ''}"


def budget_text(study: ComparisonDocument, budget: float) -> str:
    """Return a budget with its unit."""
    unit = unit_title(study)
    return f"{number(budget)} {unit.removesuffix('s') if budget == 1 else unit}"


def unit_title(study: ComparisonDocument) -> str:
    """Return the unit of the budgets in the plural."""
    unit = study.budget_unit.replace("_", "-")
    return "epoch-equivalents" if unit == "epochs" else unit


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


def interval_text(interval: Interval, metric: str) -> str:
    """Format an interval of a metric's values."""
    if interval is None or interval[0] is None or interval[1] is None:
        return MISSING
    if metric == "accuracy":
        return f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f}".replace("-", "−")
    return f"{number(interval[0], 4)} to {number(interval[1], 4)}"


def inside(interval: Interval, metric: str) -> Interval:
    """Return an interval of values within what the metric can be: Student's t knows no bounds, accuracies have two."""
    if interval is None or interval[0] is None or interval[1] is None or metric != "accuracy":
        return interval
    return max(interval[0], 0.0), min(interval[1], 1.0)


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
        difference = MISSING if row.difference is None else _signed(row.difference, accuracy)
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


def _signed(value: float, accuracy: bool) -> str:
    text = f"{100 * value:+.2f}" if accuracy else ("+" if value > 0 else "") + number(value)
    return text.replace("-", "−")


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
