"""How figures of a study are written: metrics, differences, costs, p values and budgets."""

from __future__ import annotations

from subsetopt.documents.comparison import ComparisonDocument, Interval
from subsetopt.report.study.svg import number

MISSING = "–"


def metric_title(metric: str) -> str:
    """Return the metric's name as a heading."""
    return {"accuracy": "Test accuracy", "mse": "Test MSE", "loss": "Test loss", "test_loss": "Test loss"}.get(
        metric, metric
    )


def metric_text(value: float | None, metric: str) -> str:
    """Format a metric: accuracy in per cent, anything else with four significant digits."""
    if value is None:
        return MISSING
    return f"{100 * value:.2f} %" if metric == "accuracy" else number(value, 4)


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


def difference_text(value: float | None, metric: str) -> str:
    """Format a difference with its sign and, of accuracies, its unit: percentage points."""
    if value is None:
        return MISSING
    return f"{signed(value, metric == 'accuracy')}{' points' if metric == 'accuracy' else ''}"


def signed(value: float, accuracy: bool) -> str:
    """Format a difference with its sign, of accuracies in percentage points."""
    text = f"{100 * value:+.2f}" if accuracy else ("+" if value > 0 else "") + number(value)
    return text.replace("-", "−")


def loss_text(value: float | None) -> str:
    """Format a loss with four decimals, a small or large one with four significant digits."""
    if value is None:
        return MISSING
    return f"{value:.4f}" if 0.01 <= abs(value) < 100 else number(value, 4)


def cost_text(value: float | None) -> str:
    """Format epoch-equivalents or seconds with three significant digits."""
    return MISSING if value is None else number(value, 3)


def epochs_text(value: float) -> str:
    """Return a cost with its unit, in the singular for 1."""
    text = cost_text(value)
    return f"{text} epoch-equivalent{'' if text == '1' else 's'}"


def p_text(value: float | None) -> str:
    """Format a p value with two significant digits, below 0.001 as a bound."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else number(value, 2)


def p_equation(value: float) -> str:
    """Return "p = 0.03", or "p < 0.001"."""
    text = p_text(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def budget_text(study: ComparisonDocument, budget: float) -> str:
    """Return a budget with its unit."""
    unit = unit_title(study)
    return f"{number(budget)} {unit.removesuffix('s') if budget == 1 else unit}"


def unit_title(study: ComparisonDocument) -> str:
    """Return the unit of the budgets in the plural."""
    unit = study.budget_unit.replace("_", "-")
    return "epoch-equivalents" if unit == "epochs" else unit
