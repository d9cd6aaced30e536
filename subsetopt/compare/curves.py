"""The curves of finished cells: training and held-out losses as they were recorded, and when a target was reached."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from subsetopt.compare.cells import Cell, read_result
from subsetopt.documents.comparison import TimeToTarget
from subsetopt.documents.run import RunDocument
from subsetopt.report.metrics_file import read_metrics
from subsetopt.training.run_directory import METRICS


@dataclass(frozen=True)
class Point:
    """One line of curves.csv.

    `kind`: "train" is the objective on the full training set (for first-order training the mean over the latest
    mini-batches), "subset" the objective on the method's own subset, "validation" the held-out loss without L2.
    """

    method: str
    budget: float
    seed: int
    epoch_equivalents: float
    seconds: float
    loss: float
    kind: str
    phase: int
    validation_metric: float | None


def points_of(cell: Cell, result: RunDocument, root: Path) -> Iterator[Point]:
    """Yield the recorded losses of a finished cell in order, and last its final held-out loss."""
    own: dict[str, Any] = {"method": cell.method, "budget": cell.budget, "seed": cell.seed}
    for record in read_metrics(cell.directory(root) / METRICS):
        at = {name: record.get(name, math.nan) for name in ("epoch_equivalents", "seconds", "phase")}
        if record["loss"] is not None:
            kind = "subset" if record["data"] == "subset" else "train"
            yield Point(**own, **at, loss=record["loss"], kind=kind, validation_metric=None)
        yield from _held_out(own, at, record.get("validation"))
    at = {
        "epoch_equivalents": result.cost.epoch_equivalents,
        "seconds": result.cost.seconds,
        "phase": len(result.phases) - 1,
    }
    yield from _held_out(own, at, result.metrics.get("validation"))


def time_to_targets(
    points: Iterable[Point], methods: Sequence[str], seeds: Sequence[int], targets: Sequence[float]
) -> list[TimeToTarget]:
    """Return for every method and target the mean cost and seconds to a held-out loss at or below it, without tuning.

    A seed's cost is the least over the budgets, whose learning rates and schedules differ; the means are over the seeds
    that reached the target, None where none did.
    """
    first: dict[tuple[str, int, float, float], Point] = {}
    for point in points:
        if point.kind != "validation":
            continue
        for target in targets:
            if point.loss <= target:
                first.setdefault((point.method, point.seed, point.budget, target), point)
    rows = []
    for target in targets:
        for method in methods:
            hits: dict[int, Point] = {}
            for (name, seed, _, level), point in first.items():
                if (name, level) == (method, target) and (
                    seed not in hits or point.epoch_equivalents < hits[seed].epoch_equivalents
                ):
                    hits[seed] = point
            rows.append(
                TimeToTarget(
                    method=method,
                    target=target,
                    cost_mean=mean(point.epoch_equivalents for point in hits.values()) if hits else None,
                    seconds_mean=mean(point.seconds for point in hits.values()) if hits else None,
                    reached=len(hits),
                    of=len(seeds),
                )
            )
    return rows


def automatic_targets(final: Mapping[tuple[str, float], Sequence[float]], budgets: Sequence[float]) -> list[float]:
    """Return, for each budget, the median over the methods of their mean final held-out loss, to three digits.

    `final` has the held-out losses over seeds by (method, budget).
    """
    targets = []
    for budget in budgets:
        means = [mean(losses) for (_, b), losses in final.items() if b == budget and losses]
        if means:
            targets.append(float(f"{median(means):.3g}"))
    return sorted(set(targets), reverse=True)


def point_row(point: Point) -> dict[str, Any]:
    """Return a point as a row of curves.csv."""
    return asdict(point)


def finished(cells: Iterable[Cell], root: Path) -> Iterator[tuple[Cell, RunDocument]]:
    """Yield the cells that have a result, with it."""
    for cell in cells:
        result = read_result(cell, root)
        if result is not None:
            yield cell, result


def _held_out(own: Mapping[str, Any], at: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> Iterator[Point]:
    if metrics and metrics.get("loss") is not None:
        quality = metrics.get("accuracy", metrics.get("mse"))
        yield Point(**own, **at, loss=metrics["loss"], kind="validation", validation_metric=quality)
