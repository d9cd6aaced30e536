"""How far the minimum on a subset stands for the full set: several subset minima per fraction, against Q and K.

For each seed (data split and initial weights) the full objective is minimised once, F*, and each subset from the same
initial weights. F/F* is the full objective, with its L2 term, at the subset minimum over the full minimum. Subsets of
growing size with one repeat number are nested. The central figure of Sporer et al. (2024), arXiv 2410.16523.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from subsetopt.documents.representativeness import RepresentativenessDocument
from subsetopt.errors import SettingError
from subsetopt.files import sealed
from subsetopt.report.numbers import counted
from subsetopt.report.study.files import STUDY, SUMMARY
from subsetopt.representativeness.minima import Minimum, MinimumTask, draw_subset, set_aside, stored_or_found
from subsetopt.representativeness.summary import summarise
from subsetopt.solvers import make_solver
from subsetopt.solvers.lbfgs import LBFGS
from subsetopt.study.contents import require_same
from subsetopt.study.directory import REPRESENTATIVENESS, RESULTS, open_study, write_csv
from subsetopt.study.seeds import as_seeds
from subsetopt.study.workers import Workers, each, interruptible
from subsetopt.training.context import PreparedRun
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS
from subsetopt.training.phases.methods import METHODS
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import RunConfig

MOST_MINIMA = 100_000
Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Plan:
    """What to solve: `run` holds data, model, solver and L2; every fraction gets `repeats` subsets per seed.

    `seeds` is taken as `as_seeds` takes it: a number of seeds, a sequence or range, or a text such as `11-13`.
    """

    run: RunConfig
    fractions: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    repeats: int = 3
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", as_seeds(self.seeds))
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise SettingError("fractions", fraction, "does not lie in (0, 1]", "for example 0.05,0.1,0.2")
        if len(set(self.fractions)) < len(self.fractions):
            raise SettingError("fractions", list(self.fractions), "has a share twice", "give each once")
        if self.repeats < 1:
            raise SettingError("repeats", self.repeats, "there is nothing to solve", "give at least 1")
        if min(self.fractions, default=1.0) == 1:
            problem = "has no share below 1, and all data are the measure of the others"
            raise SettingError("fractions", list(self.fractions), problem, "for example 0.05,0.1,0.2")
        if (count := len(self.seeds) * (1 + len(self.fractions) * self.repeats)) > MOST_MINIMA:
            raise SettingError(
                "repeats", self.repeats, f"makes {count} minima to find, {MOST_MINIMA} are the most", "give fewer"
            )
        _ = self.run.one_strength
        check_solver(self.run.solver)


def check_solver(name: str) -> None:
    """Raise `SettingError` where `name` is no full-batch solver."""
    if name == "none":
        raise SettingError("solver", "none", "a subset minimum needs a solver", "for example lbfgs")
    if name in OPTIMIZERS or name in METHODS:
        raise SettingError("solver", name, "is no full-batch solver, and finds no minimum", "for example lbfgs")


def run_representativeness(
    plan: Plan,
    output: Path,
    *,
    workers: Workers | None = None,
    tell: Tell | None = None,
    command: Sequence[str] = (),
) -> RepresentativenessDocument:
    """Solve what is missing in `output`, write results.csv and summary.json, and return the latter's content.

    `tell(done, total, what)` hears of every minimum. Raises `UserError` before any work for unusable settings and
    `StudyInterrupted` on Ctrl-C; the same call continues the study.
    """
    return run_minima(plan, output, workers=workers, tell=tell, command=command)[0]


def run_minima(
    plan: Plan,
    output: Path,
    *,
    workers: Workers | None = None,
    tell: Tell | None = None,
    command: Sequence[str] = (),
    effective: bool = False,
) -> tuple[RepresentativenessDocument, list[Minimum]]:
    """Do what `run_representativeness` does, and return all minima beside its document.

    With `effective` the first seed's minimum of all data has its effective parameters, tr(H^-1 C).
    """
    workers = workers or Workers()
    first = _check(plan)
    # The full minima come first: they take longest, and everything is measured against them.
    tasks = [MinimumTask(seed, 1.0, 0, effective and seed == plan.seeds[0]) for seed in plan.seeds] + [
        MinimumTask(seed, fraction, repeat)
        for seed in plan.seeds
        for fraction in plan.fractions
        if fraction < 1
        for repeat in range(plan.repeats)
    ]
    with open_study(output, REPRESENTATIVENESS) as directory:
        cells = output.absolute() / "cells"
        require_same(directory, first)
        cells.mkdir(exist_ok=True)
        directory.write_toml(STUDY, _stored_plan(plan))
        if (others := set_aside(plan.run, cells, tasks)) and tell is not None:
            tell(0, len(tasks), _not_reused(others))
        found: dict[MinimumTask, Minimum] = {}
        work = partial(stored_or_found, plan.run, cells, workers.threads)
        with interruptible():
            for task, minimum in each(work, tasks, workers):
                found[task] = minimum
                if tell is not None:
                    tell(len(found), len(tasks), f"{100 * task.fraction:g} %: F = {minimum.full_objective:.4g}")
        rows = [
            replace(
                found[task], excess=found[task].full_objective / found[MinimumTask(task.seed, 1.0, 0)].full_objective
            )
            for task in tasks
        ]
        if not effective:  # what a study calls test figures are of test data
            rows = [
                row if row.measured_on == "test" else replace(row, test_loss=None, test_metric=None) for row in rows
            ]
        write_csv(directory, RESULTS, [field.name for field in fields(Minimum)], map(asdict, rows))
        summary = summarise(first, rows, plan.repeats, command)
        directory.write_json(SUMMARY, sealed(summary.content()))
    return summary, rows


def _check(plan: Plan) -> PreparedRun:
    """Raise `UserError` for what could not be solved; return data and model of the first seed."""
    prepared = [prepare(plan.run.model_copy(update={"seed": seed})) for seed in plan.seeds]
    for each_seed in prepared:
        draw_subset(each_seed.data, min(plan.fractions), 0)
    run = prepared[0].run
    solver = make_solver(
        run.config.solver, gtol=run.config.gtol, max_iterations=run.config.max_iterations, **run.config.solver_args
    )
    if isinstance(solver, LBFGS):
        solver.require_room(run.model.flat.initial())
    return prepared[0]


def _stored_plan(plan: Plan) -> dict[str, Any]:
    return {
        "kind": REPRESENTATIVENESS,
        "fractions": list(plan.fractions),
        "repeats": plan.repeats,
        "seeds": list(plan.seeds),
        **plan.run.model_dump(mode="json", exclude={"output", "phase", "seed"}),
    }


def _not_reused(count: int) -> str:
    are = "is" if count == 1 else "are"
    return f"{counted(count, 'cell')} of another version of subsetopt {are} not reused; kept under another name"
