"""What a learning curve says, in sentences: how few rows are enough, and what twice as many would bring."""

from __future__ import annotations

import math
from collections.abc import Sequence

from subsetopt.documents.comparison import Interval
from subsetopt.documents.learning_curve import CurveMetric, CurvePoint, PowerLaw
from subsetopt.errors import setting
from subsetopt.representativeness.minima import Minimum

# What may be lost to all rows: a point of accuracy, 5 % of the error.
ENOUGH: dict[CurveMetric, float] = {"accuracy": 0.01, "r2": 0.05, "mse": 0.05}
_UNITS: dict[CurveMetric, tuple[float, str]] = {
    "accuracy": (100.0, " points of accuracy"),
    "r2": (1.0, " of R²"),
    "mse": (1.0, " of mean squared error"),
}


def answer(points: Sequence[CurvePoint], law: PowerLaw | None, metric: CurveMetric) -> list[str]:
    """Return what the curve says: how few rows are enough, and what twice as many would bring."""
    full = points[-1].error
    allowed = ENOUGH[metric] * (1.0 if metric == "accuracy" else full)
    enough = [point for point in points[:-1] if _most_lost(point) <= allowed]
    point = enough[0] if enough else points[-2]
    limit = _amount(allowed, metric, None) + ("" if metric == "accuracy" else ", 5 % of the error")
    verdict = "It is the smallest share tried that" if enough else "No share tried"
    verdict += " loses at most " if point.lost_interval is None else " is sure to lose at most "
    effective = "" if point.effective_ratio is None else f", effective Q = {point.effective_ratio:.3g}"
    lost = point.lost or 0.0
    lines = [
        f"With {100 * point.fraction:.3g} % of the rows ({point.samples}, Q = {point.ratio:.3g}{effective}) you "
        + ("lose " if lost > 0 else "lose nothing, and win ")
        + f"{_amount(abs(lost), metric, _signed(point.lost_interval, lost))} against all {points[-1].samples}"
        + f". {verdict}{limit}."
    ]
    if law is None or law.doubling is None:
        why = "does not fall with more rows beyond its spread, or not by a power law"
        return [*lines, f"The error {why}, so nothing is foreseen of still more."]
    span = law.doubling_interval
    if span is None:
        worth = f"Twice as many rows as there are would be worth {_amount(law.doubling, metric, None)}"
        return [*lines, f"{worth} by the fitted law, which has no band: there is one minimum for each share."]
    certain = span[0] is not None and span[0] > 0.1 * law.doubling
    lines.append(
        f"Twice as many rows as there are would be worth {_amount(law.doubling, metric, span)} by the fitted law"
        + (", an extrapolation." if certain else ", an extrapolation that these minima leave open.")
    )
    return lines


def unfinished(minima: Sequence[Minimum]) -> list[str]:
    """Return a sentence where solves ended before their minimum: a law of minima need not hold for them."""
    early = [row for row in minima if not row.converged]
    if not early:
        return []
    limited = sum(row.stop_reason == "max_iterations" for row in early)
    remedy = f"; {setting('max_iterations')} ended {limited} of them and can be raised" if limited else ""
    return [f"{len(early)} of the {len(minima)} solves ended before their minimum, so their errors may change{remedy}."]


def _most_lost(point: CurvePoint) -> float:
    """Return the upper end of what a share loses, its mean where there is no interval."""
    high = None if point.lost_interval is None else point.lost_interval[1]
    return math.inf if point.lost is None else point.lost if high is None else high


def _signed(interval: Interval, lost: float) -> Interval:
    """Return the interval of what is won where nothing is lost."""
    if interval is None or lost > 0:
        return interval
    low, high = interval
    return None if low is None or high is None else (-high, -low)


def _amount(value: float, metric: CurveMetric, interval: tuple[float | None, float | None] | None) -> str:
    factor, unit = _UNITS[metric]
    unit = unit.replace("points", "point") if f"{factor * value:.2g}" == "1" else unit
    low, high = interval or (None, None)
    span = "" if low is None or high is None else f" ({factor * low:.2g} to {factor * high:.2g})"
    return f"{factor * value:.2g}{unit}{span}"
