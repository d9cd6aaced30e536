"""The pictures of a study as inline SVG: loss curves, metric against cost, the Pareto front, the key to the lines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from subsetopt.documents.comparison import ComparisonDocument, ResultEntry
from subsetopt.report.study.bands import Axis, Band, seed_band
from subsetopt.report.study.files import CurvePoint
from subsetopt.report.study.svg import Plot, colour, dash, marker_path, number, percent
from subsetopt.report.study.tables import cost_text, metric_text, metric_title

SHOWN_AT_FIRST = 8
_AXES = {"cost": "cost in epoch-equivalents", "seconds": "seconds"}
_CURVES = ("validation", "metric", "train")
_DECADE = 8.0  # ranges wider than this read better on a log scale


@dataclass(frozen=True)
class Picture:
    """An SVG and the sentence under it."""

    svg: str
    caption: str


def shown_methods(study: ComparisonDocument) -> frozenset[int]:
    """Return which methods the pictures show before the reader chooses: all, or the best at the largest budget."""
    if len(study.methods) <= SHOWN_AT_FIRST:
        return frozenset(range(len(study.methods)))
    sign = -1.0 if study.higher_is_better else 1.0
    last = [row for row in study.results if row.budget == max(study.budgets) and row.mean is not None]
    best = sorted((row for row in last if row.metric == study.metric), key=lambda row: sign * (row.mean or 0.0))
    return frozenset(study.names.index(row.method) for row in best[:SHOWN_AT_FIRST] if row.method in study.names)


def key_sample(index: int) -> str:
    """Return the line and marker of method `index` as a small SVG for the key."""
    marker = f'<path class="mark" d="{marker_path(index, 17, 6)}"/>'
    line = f'<path class="line" d="M1 6H33"{dash(index)}/>'
    return f'<svg class="sample {colour(index)}" viewBox="0 0 34 12" aria-hidden="true">{line}{marker}</svg>'


def curve_kinds(points: Iterable[CurvePoint]) -> list[str]:
    """Return the kinds of curves that compare methods: held-out first; losses on each method's own subset do not."""
    present = {point.kind for point in points}
    return [kind for kind in _CURVES if kind in present]


def kind_title(study: ComparisonDocument, kind: str) -> str:
    """Return a kind of curve in words."""
    if kind == "metric":
        return "validation accuracy" if study.metric == "accuracy" else "validation MSE"
    return {"validation": "validation loss", "train": "training loss"}[kind]


def curve_picture(
    study: ComparisonDocument, points: Sequence[CurvePoint], budget: float, kind: str, axis: Axis, shown: frozenset[int]
) -> Picture | None:
    """Draw one kind of curve of every method against cost or seconds, None where there are none."""
    mine = [point for point in points if point.budget == budget and point.kind == kind]
    share = kind == "metric" and study.metric == "accuracy"
    log = not share and all(point.value > 0 for point in mine)
    bands = {
        index: band
        for index, name in enumerate(study.names)
        if (band := seed_band((point for point in mine if point.method == name), axis, log=log)) is not None
    }
    if not bands:
        return None
    visible = [band for index, band in bands.items() if index in shown] or list(bands.values())
    title = f"{kind_title(study, kind)} against {_AXES[axis]}, budget {number(budget)}"
    plot = Plot(
        [0.0, *(float(band.x[-1]) for band in bands.values())],
        [_inside(value, share) for value in _extent(visible, log=log)],
        label=f"{title}: one line per method",
        x_title=_AXES[axis],
        y_title=kind_title(study, kind),
        log_y=log,
        x_from_zero=True,
        y_format=percent if share else number,
    )
    for index, band in bands.items():
        if band.seeds > 1:
            plot.band(index, band.x.tolist(), band.low.tolist(), band.high.tolist(), hidden=index not in shown)
    for index, band in bands.items():
        plot.line(index, band.x.tolist(), band.mean.tolist(), study.names[index], hidden=index not in shown)
    return Picture(plot.svg(), title[:1].upper() + title[1:])


def _extent(bands: Sequence[Band], *, log: bool) -> tuple[float, float]:
    """Return the values that the axis must reach: all lines, and bands as far as they leave half of it to the lines."""
    scale = np.log if log else np.asarray
    means, lows, highs = (
        scale(np.concatenate([getattr(band, part) for band in bands])) for part in ("mean", "low", "high")
    )
    margin = float(np.ptp(means)) / 2 or math.inf
    low = max(float(lows.min()), float(means.min()) - margin)
    high = min(float(highs.max()), float(means.max()) + margin)
    return (math.exp(low), math.exp(high)) if log else (low, high)


def metric_picture(study: ComparisonDocument, axis: Axis, shown: frozenset[int]) -> Picture | None:
    """Draw the test metric of every method against what it cost, a point with its interval per budget."""
    spent = partial(_spent, axis=axis)
    rows = [row for row in study.results if row.metric == study.metric and row.mean is not None and spent(row)]
    if not rows:
        return None
    visible = [row for row in rows if study.names.index(row.method) in shown] or rows
    costs = [spent(row) for row in rows]
    plot = Plot(
        costs,
        [
            _inside(value, study.metric == "accuracy")
            for row in visible
            for value in (row.mean, *(row.interval or ()))
            if value is not None
        ],
        label=f"{metric_title(study.metric)} against {_AXES[axis]}",
        x_title=_AXES[axis],
        y_title=metric_title(study.metric),
        log_x=max(costs) / min(costs) > _DECADE,
        y_format=percent if study.metric == "accuracy" else number,
    )
    for index, name in enumerate(study.names):
        mine, hidden = sorted((row for row in rows if row.method == name), key=spent), index not in shown
        if mine:
            plot.line(index, map(spent, mine), [row.mean or 0.0 for row in mine], name, hidden=hidden)
        for row in mine:
            if row.interval and row.interval[0] is not None and row.interval[1] is not None:
                plot.whisker(index, spent(row), row.interval[0], row.interval[1], hidden=hidden)
            plot.marker(index, spent(row), row.mean or 0.0, _point_title(row, spent(row)), hidden=hidden)
    return Picture(plot.svg(), f"{metric_title(study.metric)} against {_AXES[axis]}; bars are 95 % intervals")


def _inside(value: float, share: bool) -> float:
    """Keep the axis of a share within 0 and 1, beyond which the t interval of few seeds may reach."""
    return min(max(value, 0.0), 1.0) if share else value


def _spent(row: ResultEntry, axis: Axis) -> float:
    return (row.cost_mean if axis == "cost" else row.seconds_mean) or 0.0


def _full_cost(row: ResultEntry) -> float:
    return row.cost_including_tuning or row.cost_mean or 0.0


def _point_title(row: ResultEntry, cost: float) -> str:
    return f"{row.method}, budget {number(row.budget)}: {metric_text(row.mean, row.metric)} at {cost_text(cost)}"


def pareto_front(study: ComparisonDocument) -> list[ResultEntry]:
    """Return the results that no other result beats at the same or lower cost including tuning, cheapest first."""
    sign = -1.0 if study.higher_is_better else 1.0
    rows = [row for row in study.results if row.metric == study.metric and row.mean is not None and _full_cost(row)]
    front: list[ResultEntry] = []
    for row in sorted(rows, key=lambda row: (_full_cost(row), sign * (row.mean or 0.0), row.method)):
        mean, best = row.mean or 0.0, (front[-1].mean or 0.0) if front else math.inf * sign
        # Means of equal values in another order differ by rounding, which is no progress.
        if sign * mean < sign * best and not math.isclose(mean, best, rel_tol=1e-12):
            front.append(row)
    return front


def pareto_picture(study: ComparisonDocument, shown: frozenset[int]) -> Picture | None:
    """Draw every result against its cost including tuning, with the front of those that nothing cheaper beats."""
    front = pareto_front(study)
    if not front:
        return None
    rows = [row for row in study.results if row.metric == study.metric and row.mean is not None and _full_cost(row)]
    costs = [_full_cost(row) for row in rows]
    plot = Plot(
        costs,
        [row.mean or 0.0 for row in rows],
        label=f"Pareto front of {metric_title(study.metric)} and cost including tuning",
        x_title="epoch-equivalents, tuning included",
        y_title=metric_title(study.metric),
        log_x=max(costs) / min(costs) > _DECADE,
        y_format=percent if study.metric == "accuracy" else number,
    )
    plot.steps([(_full_cost(row), row.mean or 0.0) for row in front])
    on_front = {(row.method, row.budget) for row in front}
    for row in rows:
        index = study.names.index(row.method)
        hidden = index not in shown and (row.method, row.budget) not in on_front
        plot.marker(index, _full_cost(row), row.mean or 0.0, _point_title(row, _full_cost(row)), hidden=hidden)
    members = "; ".join(
        f"{row.method} with budget {number(row.budget)} ({metric_text(row.mean, row.metric)} for "
        f"{cost_text(_full_cost(row))})"
        for row in front
    )
    return Picture(plot.svg(), f"Pareto front, tuning included. On the front: {members}")
