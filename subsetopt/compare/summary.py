"""From finished cells to the files of a study: results.csv, curves.csv and summary.json."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from subsetopt.compare.cells import Cell, CellMaker, CellOutcome
from subsetopt.compare.curves import Point, automatic_targets, finished, points_of, time_to_targets
from subsetopt.compare.methods import describe
from subsetopt.compare.regularisation import changes_its_loss, sentence
from subsetopt.compare.seconds import seconds_tests
from subsetopt.compare.tuning import Search, SearchKey
from subsetopt.compare.verdicts import sentences
from subsetopt.documents.comparison import (
    Architecture,
    ComparisonDocument,
    ComparisonEntry,
    FailedCell,
    FriedmanTest,
    MeanRank,
    MethodEntry,
    Metric,
    ObjectiveEntry,
    ResultEntry,
)
from subsetopt.documents.run import RunDocument
from subsetopt.study.statistics import POWER, compare_all, mean_interval, rank_all
from subsetopt.training.settings.run import RunConfig

RESULT_COLUMNS = (
    "method",
    "budget",
    "seed",
    "lr",
    "status",
    "error",
    "test_loss",
    "test_accuracy",
    "test_mse",
    "train_loss",
    "objective",
    "validation_loss",
    "epoch_equivalents",
    "seconds",
    "tuning_epoch_equivalents",
    "setting",
    "value",
    "l2",
    "weight_decay",
    "cell",
)
Searches = Mapping[SearchKey, Search]
Row = dict[str, Any]
_KNOB_WORDS = {"lr": "learning rate", "l2": "L2 strength", "weight_decay": "weight decay"}


@dataclass
class Findings:
    """All that a study has found: the rows of results.csv, the points of curves.csv, and one finished result."""

    rows: list[Row]
    points: list[Point]
    example: RunDocument | None


def collect(cells: Iterable[Cell], outcomes: Mapping[str, CellOutcome], searches: Searches, root: Path) -> Findings:
    """Read the finished cells; a cell whose final test loss is not finite counts as failed."""
    cells = list(cells)
    results = {cell.id: result for cell, result in finished(cells, root)}
    rows = [
        _row(cell, results.get(cell.id), outcomes[cell.id], searches[cell.method, cell.budget, cell.seed])
        for cell in cells
    ]
    points = [point for cell in cells if cell.id in results for point in points_of(cell, results[cell.id], root)]
    return Findings(rows, points, next(iter(results.values()), None))


def summarise(maker: CellMaker, searches: Searches, findings: Findings, command: Sequence[str]) -> ComparisonDocument:
    """Return the content of summary.json."""
    study = maker.study.config
    task = findings.example.dataset.task if findings.example else "classification"
    metric: Metric = "accuracy" if task == "classification" else "mse"
    done = [row for row in findings.rows if row["status"] == "done"]
    names = list(maker.methods)
    final = {
        (name, budget): _values(done, name, budget, "validation_loss") for name in names for budget in study.budget
    }
    targets = list(study.target) or automatic_targets(
        {key: list(found.values()) for key, found in final.items()}, study.budget
    )
    comparisons, ranks, friedman = _tests(done, names, study.budget, metric, study.baseline)
    summary = ComparisonDocument(
        kind="compare",
        title=study.title or f"{_dataset_name(maker)}: {len(names)} methods at equal cost",
        **_subject(maker, findings.example),
        metric=metric,
        higher_is_better=metric == "accuracy",
        budgets=list(study.budget),
        budget_unit="seconds" if study.budget_unit == "seconds" else "epoch-equivalents",
        seeds=list(study.seeds),
        tuning_seeds=[other for seed in study.seeds for other in study.seeds_to_tune_on(seed)] if study.tune else [],
        tune=list(study.tune),
        trials=study.trials if study.tune else 0,
        baseline=study.baseline,
        power=POWER,
        objective=_objective(maker),
        methods=[_method(maker, name, searches) for name in names],
        results=[_result(done, searches, name, b, metric) for b in study.budget for name in names],
        time_to_target=time_to_targets(findings.points, names, study.seeds, targets),
        ranks=ranks,
        friedman=friedman,
        comparisons=comparisons,
        seconds_comparisons=[
            test for b in study.budget for test in seconds_tests({n: _values(done, n, b, "seconds") for n in names}, b)
        ],
        failures=[FailedCell(cell=r["cell"], error=r["error"]) for r in findings.rows if r["status"] != "done"],
        command=list(command),
        versions={name: version(name) for name in ("subsetopt", "torch", "numpy", "scipy")}
        | {"python": platform.python_version()},
        machine={"platform": platform.platform(), "processors": os.cpu_count(), "byte_order": sys.byteorder},
    )
    return summary.model_copy(update={"verdict": sentences(summary)})


def _row(cell: Cell, result: RunDocument | None, outcome: CellOutcome, search: Search) -> Row:
    row: Row = dict.fromkeys(RESULT_COLUMNS)
    knob = search.knobs[0].name if search.knobs else None
    last = cell.config.phase[-1]
    row |= {
        "method": cell.method,
        "budget": cell.budget,
        "seed": cell.seed,
        "cell": cell.id,
        "status": outcome.status,
        "error": outcome.error,
        "tuning_epoch_equivalents": search.epoch_equivalents,
        "setting": knob,
        "value": None if knob is None else search.values.get(knob),
        "lr": last.lr if last.first_order else None,
        "l2": cell.config.l2,
        "weight_decay": last.weight_decay if last.first_order else None,
    }
    if result is None:
        return row
    metrics, cost = result.metrics, result.cost
    quality = metrics.get("test", {})
    row |= {
        "test_loss": quality.get("loss"),
        "test_accuracy": quality.get("accuracy"),
        "test_mse": quality.get("mse"),
        "train_loss": metrics["train"]["loss"],
        "objective": result.objective,
        "validation_loss": metrics.get("validation", {}).get("loss"),
        "epoch_equivalents": cost.epoch_equivalents,
        "seconds": cost.seconds,
    }
    if row["test_loss"] is None:
        row |= {"status": "failed", "error": "the test loss is not finite: the training diverged"}
    return row


def _values(rows: Iterable[Row], method: str, budget: float, column: str) -> dict[int, float]:
    return {
        row["seed"]: row[column]
        for row in rows
        if row["method"] == method and row["budget"] == budget and row[column] is not None
    }


def _result(done: Sequence[Row], searches: Searches, method: str, budget: float, metric: str) -> ResultEntry:
    found = {
        column: list(_values(done, method, budget, column).values())
        for column in (f"test_{metric}", "test_loss", "objective", "seconds", "epoch_equivalents")
    }
    own = [search for (name, at, _), search in searches.items() if (name, at) == (method, budget)]
    values, losses = found[f"test_{metric}"], found["test_loss"]
    interval = mean_interval(values)
    if interval is not None and metric == "accuracy":
        interval = max(interval[0], 0.0), min(interval[1], 1.0)  # Student's knows no bounds
    cost = _mean(found["epoch_equivalents"])
    return ResultEntry(
        method=method,
        budget=budget,
        metric=metric,
        mean=_mean(values),
        interval=interval,
        n=len(values),
        values=list(values),
        loss_mean=_mean(losses),
        loss_interval=mean_interval(losses),
        objective_mean=_mean(found["objective"]),
        seconds_mean=_mean(found["seconds"]),
        cost_mean=cost,
        cost_including_tuning=None if cost is None else cost + mean(search.epoch_equivalents for search in own),
        seconds_of_tuning=mean(search.seconds for search in own),
    )


def _tests(
    done: Sequence[Row], names: Sequence[str], budgets: Sequence[float], metric: str, baseline: str | None
) -> tuple[list[ComparisonEntry], list[MeanRank], list[FriedmanTest]]:
    """Return comparisons, mean ranks and Friedman's tests; at each budget those on one metric are a family."""
    comparisons: list[ComparisonEntry] = []
    ranks: list[MeanRank] = []
    friedman: list[FriedmanTest] = []
    for budget in budgets:
        for kind in dict.fromkeys((metric, "loss")):
            better_high = kind == "accuracy"
            values = {name: _values(done, name, budget, f"test_{kind}") for name in names}
            for pair in compare_all(values, better_high, baseline=baseline):
                comparisons.append(ComparisonEntry(**vars(pair), budget=budget, metric=kind))
            if kind == metric and (ranked := rank_all(values, better_high)) is not None:
                at: dict[str, Any] = {"budget": budget, "metric": kind, "n": ranked.n}
                ranks += [MeanRank(method=name, rank=rank, **at) for name, rank in ranked.ranks.items()]
                friedman.append(FriedmanTest(statistic=ranked.statistic, p=ranked.p, **at))
    return comparisons, ranks, friedman


def _method(maker: CellMaker, name: str, searches: Searches) -> MethodEntry:
    mine = [search for (method, _, _), search in searches.items() if method == name]
    base = maker.description(name)
    rates = {f"{budget:g}": _rate(maker, name, budget, mine) for budget in maker.study.config.budget}
    tuned = " and ".join(_KNOB_WORDS.get(knob.name, knob.name) for knob in maker.knobs[name]) or "nothing to tune"
    return MethodEntry(
        name=name,
        description=describe(base),
        family=_family(base),
        tuned=tuned if maker.study.config.tune else "not tuned",
        lr=rates if base.phases()[-1].first_order else None,
        tuning=[search.entry() for search in mine],
    )


def _rate(maker: CellMaker, name: str, budget: float, searches: Iterable[Search]) -> float | None:
    """Return the learning rate of the last phase, None where the searches of the seeds took several."""
    cells = [maker.cell(name, budget, search.seed, search.values) for search in searches if search.budget == budget]
    rates = {cell.config.phase[-1].lr for cell in cells}
    return rates.pop() if len(rates) == 1 else None


def _objective(maker: CellMaker) -> ObjectiveEntry:
    """Return which problem the methods solve."""
    kind: Literal["same", "tuned"] = "tuned" if "l2" in maker.study.config.tune else "same"
    l2 = float(maker.study.shared.get("l2", RunConfig.model_fields["l2"].default))
    changed = [name for name in maker.methods if changes_its_loss(maker.description(name))]
    return ObjectiveEntry(kind=kind, l2=l2, text=sentence(kind, l2, changed))


def _family(base: RunConfig) -> str:
    phases = base.phases()
    if any(phase.streaming for phase in phases):
        return "stream"
    if any(phase.data == "subset" and not phase.first_order for phase in phases):
        return "subset"
    return "first-order" if phases[-1].first_order else "solver"


def _subject(maker: CellMaker, example: RunDocument | None) -> dict[str, Any]:
    """Return data set and model as a line each, and in numbers."""
    shared = maker.study.shared
    if example is None:
        return {"dataset": shared["dataset"], "model": shared.get("model", "auto"), "data": None, "architecture": None}
    data, model = example.dataset, example.model
    return {
        "dataset": f"{data.name} ({data.train} train, {data.validation} validation, {data.test} test)",
        "model": f"{model.name} with {model.parameters} parameters",
        "data": data,
        "architecture": Architecture(**dict(model), l2=shared.get("l2", RunConfig.model_fields["l2"].default)),
    }


def _dataset_name(maker: CellMaker) -> str:
    return str(maker.study.shared["dataset"])


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return mean(finite) if finite else None
