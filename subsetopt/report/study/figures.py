"""The pictures of a study as inline SVG: loss curves, metric against cost, the Pareto front, the key to the lines."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from subsetopt.documents.comparison import ComparisonDocument, ResultEntry
from subsetopt.report.study.bands import Axis, Band, Floats, seed_band
from subsetopt.report.study.files import CurvePoint
from subsetopt.report.study.svg import FINE, Plot, colour, dash, marker_path, number, percent
from subsetopt.report.study.texts import cost_text, metric_text, metric_title

SHOWN_AT_FIRST = 8
_AXES = {"cost": "cost in epoch-equivalents", "seconds": "seconds"}
_CURVES = ("validation", "metric", "train")
_COARSEST = 12.0
_SHARE = (0.0, 1.0)
_DECADE = 8.0  # ranges wider than this read better on a log scale


@dataclass(frozen=True)
class Picture:
    """A plot, the sentence under it, and to how many pixels its lines are thinned."""

    plot: Plot
    caption: str
    tolerance: float = FINE

    @cached_property
    def svg(self) -> str:
        """The plot as an SVG element."""
        return self.plot.svg(self.tolerance)


def fitting(pictures: Sequence[Picture], size: int) -> list[Picture]:
    """Return `pictures` with their lines thinned as much as it takes to stay within `size` characters together."""
    tolerance, chosen = FINE, list(pictures)
    while sum(len(picture.svg) for picture in chosen) > size and tolerance < _COARSEST:
        tolerance *= 1.5
        chosen = [replace(picture, tolerance=tolerance) for picture in pictures]
    return chosen


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
    """Return the kinds of curves that get pictures, held-out first; losses on a method's own subset are training."""
    present = {"train" if point.kind == "subset" else point.kind for point in points}
    return [kind for kind in _CURVES if kind in present]


def kind_title(study: ComparisonDocument, kind: str) -> str:
    """Return a kind of curve in words."""
    if kind == "metric":
        return "validation accuracy" if study.metric == "accuracy" else "validation MSE"
    return {"validation": "validation loss", "train": "training loss"}[kind]


def curve_picture(
    study: ComparisonDocument, points: Sequence[CurvePoint], budget: float, kind: str, axis: Axis, shown: frozenset[int]
) -> Picture | None:
    """Draw one kind of curve of every method against cost or seconds, None where there are none.

    Beside training losses stand those that a method recorded on its own subset, as thin lines without a band.
    """
    at_budget = [point for point in points if point.budget == budget]
    mine = [point for point in at_budget if point.kind == kind]
    on_subset = [point for point in at_budget if kind == "train" and point.kind == "subset"]
    share = kind == "metric" and study.metric == "accuracy"
    log = not share and all(point.value > 0 for point in (*mine, *on_subset))
    bands = _bands(study, mine, axis, log=log)
    own = _bands(study, on_subset, axis, log=log)
    if not bands and not own:
        return None
    drawn = [*bands.items(), *own.items()]
    visible = [band for index, band in drawn if index in shown] or [band for _, band in drawn]
    title = f"{kind_title(study, kind)} against {_AXES[axis]}, budget {number(budget)}"
    plot = Plot(
        [0.0, *(float(band.x[-1]) for band in visible)],
        [float(_inside(value, share)) for value in _extent(visible, log=log)],
        label=f"{title}: one line per method",
        x_title=_AXES[axis],
        y_title=kind_title(study, kind),
        log_y=log,
        x_from_zero=True,
        y_format=percent if share else number,
        y_limits=_SHARE if share else None,
    )
    for index in range(len(study.names)):
        if (band := bands.get(index)) is not None and band.seeds > 1:
            low, high = (_inside(ends, share) for ends in (band.low, band.high))
            plot.band(index, band.x.tolist(), low.tolist(), high.tolist(), hidden=index not in shown)
        for found, thin in ((own, True), (bands, False)):
            if (band := found.get(index)) is not None:
                plot.line(index, band.x.tolist(), band.mean.tolist(), thin=thin, hidden=index not in shown)
    caption = f"{title}; thin lines: on the method's own subset" if own else title
    return Picture(plot, caption[:1].upper() + caption[1:])


def _bands(study: ComparisonDocument, points: Sequence[CurvePoint], axis: Axis, *, log: bool) -> dict[int, Band]:
    """Return the mean curve of every method that has one, by the method's index."""
    found = {
        index: seed_band((point for point in points if point.method == name), axis, log=log)
        for index, name in enumerate(study.names)
    }
    return {index: band for index, band in found.items() if band is not None}


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
    costs = [spent(row) for row in visible]
    plot = Plot(
        costs,
        [
            float(_inside(value, study.metric == "accuracy"))
            for row in visible
            for value in (row.mean, *(row.interval or ()))
            if value is not None
        ],
        label=f"{metric_title(study.metric)} against {_AXES[axis]}",
        x_title=_AXES[axis],
        y_title=metric_title(study.metric),
        log_x=max(costs) / min(costs) > _DECADE,
        y_format=percent if study.metric == "accuracy" else number,
        y_limits=_SHARE if study.metric == "accuracy" else None,
    )
    for index, name in enumerate(study.names):
        mine, hidden = sorted((row for row in rows if row.method == name), key=spent), index not in shown
        if mine:
            plot.line(index, map(spent, mine), [row.mean or 0.0 for row in mine], hidden=hidden)
        for row in mine:
            if row.interval and row.interval[0] is not None and row.interval[1] is not None:
                low, high = _inside([row.interval[0], row.interval[1]], study.metric == "accuracy").tolist()
                plot.whisker(index, spent(row), low, high, hidden=hidden)
            plot.marker(index, spent(row), row.mean or 0.0, _point_title(row, spent(row)), hidden=hidden)
    return Picture(plot, f"{metric_title(study.metric)} against {_AXES[axis]}; bars are 95 % intervals")


def _inside(values: npt.ArrayLike, share: bool) -> Floats:
    """Keep shares within 0 and 1, beyond which the t interval of few seeds may reach."""
    return np.asarray(np.clip(np.asarray(values, dtype=float), *(_SHARE if share else (-np.inf, np.inf))))


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
        y_limits=_SHARE if study.metric == "accuracy" else None,
    )
    plot.steps([(_full_cost(row), row.mean or 0.0) for row in front])
    on_front = {(row.method, row.budget) for row in front}
    for row in rows:
        index = study.names.index(row.method)
        hidden = index not in shown and (row.method, row.budget) not in on_front
        plot.marker(index, _full_cost(row), row.mean or 0.0, _point_title(row, _full_cost(row)), hidden=hidden)
    return Picture(plot, "Pareto front, tuning included: nothing off the dashed line is both cheaper and better")


def front_text(study: ComparisonDocument) -> str:
    """Return which results are on the Pareto front, as a sentence; empty where there are none."""
    members = "; ".join(
        f"{row.method} with budget {number(row.budget)} ({metric_text(row.mean, row.metric)} for "
        f"{cost_text(_full_cost(row))})"
        for row in pareto_front(study)
    )
    return f"Pareto front, tuning included. On the front: {members}." if members else ""
