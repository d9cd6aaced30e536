"""How far the minimum on a subset stands for the full set: several subset minima per fraction, against Q and K.

For each seed (data split and initial weights) the full objective is minimised once, F*, and each subset from the same
initial weights. F/F* is the full objective, with its L2 term, at the subset minimum over the full minimum. Subsets of
growing size with one repeat number are nested. The central figure of Sporer et al. (2024), arXiv 2410.16523.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from subsetopt.data import draw, require_all_classes
from subsetopt.errors import SettingError
from subsetopt.overdetermination import overdetermination_ratio
from subsetopt.seeding import derive_seed
from subsetopt.solvers import minimize
from subsetopt.study.compare import RESULTS, STUDY, SUMMARY, open_study, write_csv
from subsetopt.study.execution import StudyInterrupted, Workers, each
from subsetopt.study.statistics import mean_interval
from subsetopt.training.config import RunConfig
from subsetopt.training.preparation import prepare
from subsetopt.training.run_directory import RunDirectory
from subsetopt.training.workspace import Workspace

MEASURES = ("subset_objective", "full_objective", "excess", "train_loss", "test_loss", "test_metric")
Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Plan:
    """What to solve: `run` holds data, model, solver and L2; every fraction gets `repeats` subsets per seed."""

    run: RunConfig
    fractions: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    repeats: int = 3
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise SettingError("fractions", fraction, "does not lie in (0, 1]", "for example 0.05,0.1,0.2")
        if not self.fractions or self.repeats < 1 or not self.seeds:
            raise SettingError("repeats", self.repeats, "there is nothing to solve", "give at least one of each")
        if self.run.solver == "none":
            raise SettingError("solver", "none", "a subset minimum needs a solver", "for example lbfgs")


@dataclass(frozen=True)
class Minimum:
    """One solved subset; `fraction` 1 with `repeat` 0 is the full set. Objectives have their L2 term, losses have not.

    `excess` is F/F*; `ratio` is Q = K M / P; `test_metric` accuracy or mse.
    """

    seed: int
    fraction: float
    repeat: int
    samples: int
    ratio: float
    subset_objective: float
    full_objective: float
    excess: float | None
    train_loss: float
    test_loss: float | None
    test_metric: float | None
    gradient_norm: float
    converged: bool
    stop_reason: str
    iterations: int
    epoch_equivalents: float


@dataclass(frozen=True)
class Task:
    """One minimum to find; `fraction` 1 with `repeat` 0 is the full set."""

    seed: int
    fraction: float
    repeat: int


def run_representativeness(
    plan: Plan,
    output: Path,
    *,
    workers: Workers | None = None,
    tell: Tell | None = None,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """Solve what is missing in `output`, write results.csv and summary.json, and return the latter's content.

    `tell(done, total, what)` hears of every minimum. Raises `UserError` before any work for unusable settings and
    `StudyInterrupted` on Ctrl-C; the same call goes on.
    """
    workers = workers or Workers()
    workspace = _check(plan)
    # The full minima come first: they take longest, and everything is measured against them.
    tasks = [Task(seed, 1.0, 0) for seed in plan.seeds] + [
        Task(seed, fraction, repeat)
        for seed in plan.seeds
        for fraction in plan.fractions
        if fraction < 1
        for repeat in range(plan.repeats)
    ]
    with open_study(output) as directory:
        (output / "cells").mkdir(exist_ok=True)
        directory.write_toml(STUDY, _stored_plan(plan))
        found: dict[Task, Minimum] = {}
        work = partial(_stored_or_solved, plan, output.absolute(), workers.threads)
        try:
            for task, minimum in each(work, tasks, workers):
                found[task] = minimum
                if tell is not None:
                    tell(len(found), len(tasks), f"{100 * task.fraction:g} %: F = {minimum.full_objective:.4g}")
        except KeyboardInterrupt:
            raise StudyInterrupted from None
        rows = [
            replace(found[task], excess=found[task].full_objective / found[Task(task.seed, 1.0, 0)].full_objective)
            for task in tasks
        ]
        write_csv(directory, RESULTS, [field.name for field in fields(Minimum)], map(asdict, rows))
        summary = _summary(plan, workspace, rows, command)
        directory.write_json(SUMMARY, summary)
    return summary


def _check(plan: Plan) -> Workspace:
    """Raise `UserError` for what could not be solved; return the workspace of the first seed."""
    workspaces = [prepare(plan.run.model_copy(update={"seed": seed})) for seed in plan.seeds]
    for workspace in workspaces:
        _subset(workspace, min(plan.fractions), 0)
    return workspaces[0]


def _stored_plan(plan: Plan) -> dict[str, Any]:
    return {
        "kind": "representativeness",
        "fractions": list(plan.fractions),
        "repeats": plan.repeats,
        "seeds": list(plan.seeds),
        **plan.run.model_dump(mode="json", exclude={"output", "phase", "seed"}),
    }


def _subset(workspace: Workspace, fraction: float, repeat: int) -> Tensor:
    dataset = workspace.dataset
    classes = dataset.task == "classification"
    rows = draw(
        len(dataset.train),
        fraction=fraction,
        seed=derive_seed(workspace.config.seed, f"repeat:{repeat}"),
        stratify=dataset.train.targets if classes and workspace.config.stratify else None,
    )
    if classes:
        require_all_classes(dataset.train.targets[rows], dataset.n_outputs)
    return rows


def _stored_or_solved(plan: Plan, root: Path, threads: int | None, task: Task) -> Minimum:
    """Return the minimum that `root` holds, or find and store it; runs in a worker."""
    settings = plan.run.model_dump(
        mode="json", exclude={"output", "data_dir", "data_file", "checkpoint_seconds", "seed"}
    )
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    cells = RunDirectory(root / "cells")
    name = f"f{task.fraction:g}-r{task.repeat}-s{task.seed}-{digest}.json"
    if (cells.path / name).is_file():
        return Minimum(**cells.read_json(name))
    if threads is not None:
        torch.set_num_threads(threads)
    workspace = _workspace(plan.run.model_copy(update={"seed": task.seed}).model_dump_json())
    subset = None if task.fraction == 1 else _subset(workspace, task.fraction, task.repeat)
    found = _solve(workspace, subset, task)
    cells.write_json(name, asdict(found))
    return found


@lru_cache(maxsize=1)
def _workspace(settings: str) -> Workspace:
    """Return the workspace of these settings (JSON); a worker that goes on with the same seed reads the data once."""
    return prepare(RunConfig.model_validate_json(settings))


def _solve(workspace: Workspace, subset: Tensor | None, task: Task) -> Minimum:
    config, before = workspace.config, workspace.ledger.cost
    which = "full" if subset is None else "subset"
    own = workspace if subset is None else workspace.with_subset(subset)
    objective = own.objective(which)
    solved = minimize(
        objective,
        workspace.flat.initial(),
        config.solver,
        gtol=config.gtol,
        max_iterations=config.max_iterations,
        **config.solver_args,
    )
    cost = workspace.ledger.cost - before
    whole = solved.loss if which == "full" else float(workspace.objective("full").value(solved.x, "evaluation"))
    own.refresh_batch_norm(solved.x, which)
    train, test = workspace.evaluate(solved.x, "train"), workspace.evaluate(solved.x, "test")
    assert train is not None, "every data set has training data"
    samples = len(own.data(which)[1])
    return Minimum(
        task.seed, task.fraction, task.repeat, samples,
        overdetermination_ratio(workspace.flat.size, samples, workspace.dataset.n_outputs).ratio,
        solved.loss, whole, None, train["loss"], None if test is None else test["loss"],
        None if test is None else test.get("accuracy", test.get("mse")), solved.gradient_norm, solved.converged,
        str(solved.stop_reason), solved.iterations, cost,
    )  # fmt: skip


def _summary(plan: Plan, workspace: Workspace, rows: Sequence[Minimum], command: Sequence[str]) -> dict[str, Any]:
    dataset = workspace.dataset
    fractions = sorted({row.fraction for row in rows})
    results = [_figures([row for row in rows if row.fraction == fraction]) for fraction in fractions]
    metric = "accuracy" if dataset.task == "classification" else "mse"
    return {
        "kind": "representativeness",
        "title": f"How far subset minima stand for the full set: {dataset.name}, {workspace.config.model}",
        "dataset": f"{dataset.name} ({len(dataset.train)} training samples)",
        "model": f"{workspace.config.model} with {workspace.flat.size} parameters",
        "parameters": workspace.flat.size,
        "outputs": dataset.n_outputs,
        "l2": plan.run.l2,
        "solver": plan.run.solver,
        "metric": metric,
        "seeds": list(plan.seeds),
        "repeats": plan.repeats,
        "interval_over": "seeds" if len(plan.seeds) > 1 else "subsets",
        "results": results,
        "verdict": _sentences(results, metric),
        "command": list(command),
    }


def _figures(rows: Sequence[Minimum]) -> dict[str, Any]:
    """Return means over the subsets of one fraction; intervals over seeds, or over subsets where there is one seed."""
    figures: dict[str, Any] = {
        "fraction": rows[0].fraction,
        "samples": rows[0].samples,
        "ratio": rows[0].ratio,
        "n": len(rows),
        "converged": sum(row.converged for row in rows),
        "epoch_equivalents": mean(row.epoch_equivalents for row in rows),
    }
    seeds = sorted({row.seed for row in rows})
    for name in MEASURES:
        by_seed = [
            [value for row in rows if row.seed == seed if (value := getattr(row, name)) is not None] for seed in seeds
        ]
        if not all(by_seed):
            figures[name] = None
            continue
        groups = [mean(values) for values in by_seed] if len(seeds) > 1 else by_seed[0]
        every = [value for values in by_seed for value in values]
        figures[name] = {"mean": mean(groups), "interval": mean_interval(groups), "low": min(every), "high": max(every)}
    return figures


def _sentences(results: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    lines = []
    for row in results[:-1]:
        text = (
            f"Minima on {100 * row['fraction']:g} % of the data (K = {row['samples']}, Q = {row['ratio']:.3g}) have "
            f"{row['excess']['mean']:.3g} times the full minimum's objective on the full set"
        )
        quality = row["test_metric"]
        if quality is not None:
            value, best = quality["mean"], results[-1]["test_metric"]["mean"]
            shown = (
                (f"{100 * value:.2f} %", f"{100 * best:.2f} %")
                if metric == "accuracy"
                else (f"{value:.4g}", f"{best:.4g}")
            )
            text += f" and a test {metric} of {shown[0]} (full minimum: {shown[1]})"
        lines.append(f"{text}; {row['converged']} of {row['n']} reached the gradient test.")
    return lines
