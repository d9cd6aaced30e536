"""The measurements behind `subsetopt/plan/laws.toml`: python plan_laws.py TABLE PROBLEM L2S SEEDS [STRATEGIES]

PROBLEM is one of `PROBLEMS`, STRATEGIES some of `STRATEGIES` (all by default). Adds to the CSV file TABLE one row per
L2 strength, seed and strategy that is not in it yet: the epoch-equivalents, all arithmetic charged, until the objective
on all data is first within each of `LEVELS` of F*, the lowest that L-BFGS from scratch reaches for the problem's `cap`.
Empty: not reached. Solvers are looked at along one run. First-order methods (the best of the problem's `rates`, by that
objective) and the stream have a run for each of its `budgets`, and the first that gets there counts; `calls` are the
stream's dependent model calls per epoch-equivalent of the run that is first within the coarsest level. `pilot` counts
evaluations on the subset that `subsetopt plan` solves.

`plan_tables.py` makes the entries of laws.toml and the table of `plan-laws.md` of it.
"""

from __future__ import annotations

import csv
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from growing import reached

from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.plan.pilot import run_pilot
from subsetopt.training.phases.factory import build_phases
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import make_config
from subsetopt.training.splits import SplitName

LEVELS = (1.0, 0.1, 0.05, 0.02)
LOOK = 0.25  # epoch-equivalents between looks at the objective on all data, which are not charged


class Problem(NamedTuple):
    """Data and model, how they are named in laws.toml, and how far each method goes on them."""

    title: str
    settings: dict[str, Any]
    cap: float
    budgets: tuple[int, ...]
    rates: dict[str, tuple[float, ...]]


PROBLEMS = {
    "digits": Problem(
        "digits, MLP with 16 tanh units",
        {"dataset": "digits", "model": "mlp", "validation_fraction": 0.1},
        800.0,
        (1, 2, 4, 8, 16, 32, 64),
        {"sgd": (0.02, 0.05, 0.1, 0.2, 0.4), "adam": (0.001, 0.003, 0.01, 0.02, 0.04)},
    ),
    "mlp": Problem(
        "MNIST, 12 000 samples, MLP with 16 tanh units",
        {"dataset": "mnist", "model": "mlp", "validation_fraction": 0.8},
        400.0,
        (1, 2, 4, 8, 16),
        {"sgd": (0.02, 0.05, 0.1), "adam": (0.001, 0.003, 0.01)},
    ),
    "mnist": Problem(
        "MNIST, MLP with 16 tanh units",
        {"dataset": "mnist", "model": "mlp", "validation_fraction": 0.1},
        250.0,
        (1, 2, 4, 8),
        {"sgd": (0.02, 0.05, 0.1), "adam": (0.001, 0.003, 0.01)},
    ),
}
FULL: dict[str, Any] = {"solver": "none", "handoff": "full"}
STREAM: dict[str, Any] = {"solver": "kfac-stream", "handoff": "none"}
TRACED: dict[str, dict[str, Any]] = {  # the flags that `plan` prints
    "lbfgs": {**FULL, "handoff_solver": "lbfgs"},
    "newton-cg": {**FULL, "handoff_solver": "newton-cg"},
    "lbfgs@0.1+full": {"subset_frac": 0.1, "stop_at": "noise", "handoff": "full"},
    "grow": {"grow": 2, "start": 0.01, "handoff": "none"},
    "lbfgs@residual": {"subset_draw": "residual", "handoff": "none", "max_iterations": None},
    "kfac-stream+lbfgs": {
        **STREAM,
        "solver_epochs": 2,
        "handoff": "full",
        "handoff_args": {"preconditioner": "kfac"},
    },
}
FIRST_ORDER = ("sgd", "adam")
STRATEGIES = (*TRACED, *FIRST_ORDER, "kfac-stream", "pilot")
COLUMNS = ("problem", "samples", "l2", "seed", "strategy", "minimum", *(f"to {level:g}" for level in LEVELS), "calls")
Points = list[tuple[float, float]]


def trace(settings: dict[str, Any], cap: float, goal: float = 0.0) -> Points:
    """Return (cost, objective on all data) along the solves of a run, until the latter is at most `goal`."""
    longest = {"handoff_epochs": 1e6} if settings["handoff"] == "full" else {}
    data, budget, run = prepare(make_config({**longest, "max_iterations": None, **settings, "max_epochs": cap}))
    full, w, points = run.model.objective(data, SplitName.TRAIN), run.model.flat.initial(), Points()
    for phase in build_phases(data, budget, run):
        budget.ledger.open_phase(phase.config.epochs)
        try:
            state = phase.start(w)
            while phase.terminate(state) is None:
                state, cost = phase.step(state), budget.ledger.cost
                solver = getattr(state, "solver", None)
                if solver is None or not hasattr(solver, "loss"):
                    continue  # mini-batches have no objective to follow
                if getattr(state, "whole", phase.config.data == "full"):
                    points.append((cost, solver.loss))
                elif not points or cost >= points[-1][0] + LOOK:
                    points.append((cost, float(full.value(solver.w, "evaluation"))))
                if points and points[-1][1] <= goal:
                    return points
        except BudgetExhausted:
            return points
        w = phase.finish(state).w
    return points


def at_budgets(
    shared: dict[str, Any], variants: Sequence[dict[str, Any]], key: str, budgets: Sequence[int], lowest: float
) -> tuple[Points, float | None]:
    """Return (epochs, lowest objective of `variants`) for each budget, and calls per unit of the first that is near."""
    points, calls = Points(), None
    for epochs in budgets:
        ends = [_run_to_the_end({**shared, **variant, key: float(epochs)}) for variant in variants]
        points.append((float(epochs), min(value for value, _ in ends)))
        if calls is None and points[-1][1] <= (1 + LEVELS[0]) * lowest:
            calls = ends[0][1] / epochs
        if points[-1][1] <= (1 + LEVELS[-1]) * lowest:
            break
    return points, calls


def _run_to_the_end(settings: dict[str, Any]) -> tuple[float, int]:
    """Return the objective on all data at the end of a run of one phase, and the steps that it took."""
    data, budget, run = prepare(make_config(settings))
    full, (phase,) = run.model.objective(data, SplitName.TRAIN), build_phases(data, budget, run)
    budget.ledger.open_phase(phase.config.epochs)
    state = phase.start(run.model.flat.initial())
    while phase.terminate(state) is None:
        state = phase.step(state)
    w = phase.finish(state).w
    calls = phase.details().get("sequential_calls", 0)
    return float(full.value(w, "evaluation")), calls


def pilot(shared: dict[str, Any]) -> list[float | None]:
    """Return the evaluations that the pilot of a plan takes to each level above its own minimum."""
    found = run_pilot(prepare(make_config(shared)), 1e9)
    return [found.evaluations(level) for level in LEVELS]


def measure(
    problem: Problem, shared: dict[str, Any], strategy: str, lowest: float
) -> tuple[list[float | None], float | None]:
    """Return the cost to each level, and a stream's calls per epoch-equivalent."""
    calls = None
    if strategy == "pilot":
        return pilot(shared), None
    if strategy in TRACED:
        points = trace({**shared, **TRACED[strategy]}, problem.cap, (1 + LEVELS[-1]) * lowest)
    elif strategy == "kfac-stream":
        points, calls = at_budgets(shared, [STREAM], "solver_epochs", problem.budgets, lowest)
    else:
        variants = [{"solver": "none", "handoff": strategy, "handoff_lr": rate} for rate in problem.rates[strategy]]
        points, _ = at_budgets(shared, variants, "handoff_epochs", problem.budgets, lowest)
    return to_levels(points, lowest), calls


def to_levels(points: Points, lowest: float) -> list[float | None]:
    """Return the cost at which each level was first met."""
    return [reached(points, (1 + level) * lowest) for level in LEVELS]


def rows_of(table: Path) -> list[dict[str, str]]:
    """Return the rows that the table has."""
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main(table: str, name: str, strengths: str, seeds: str, wanted: str = ",".join(STRATEGIES)) -> None:
    """Measure what the table has not."""
    warnings.simplefilter("ignore")
    path, problem = Path(table), PROBLEMS[name]
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    for l2 in map(float, strengths.split(",")):
        for seed in map(int, seeds.split(",")):
            known = {row["strategy"]: row for row in rows_of(path) if _same(row, name, l2, seed)}
            missing = [strategy for strategy in wanted.split(",") if strategy not in known]
            if not missing:
                continue
            shared = {**problem.settings, "l2": l2, "seed": seed}
            samples = prepare(make_config(shared)).data.full_size
            if "lbfgs" in known:
                scratch, lowest = Points(), float(known["lbfgs"]["minimum"])
            else:
                scratch = trace({**shared, **TRACED["lbfgs"]}, problem.cap)
                lowest = min(loss for _, loss in scratch)
            for strategy in missing:
                if strategy == "lbfgs":
                    costs, calls = to_levels(scratch, lowest), None
                else:
                    costs, calls = measure(problem, shared, strategy, lowest)
                shown = ["" if cost is None else f"{cost:.4g}" for cost in (*costs, calls)]
                row = [name, str(samples), f"{l2:g}", str(seed), strategy, f"{lowest:.7g}", *shown]
                with path.open("a", encoding="utf-8") as file:
                    file.write(",".join(row) + "\n")


def _same(row: dict[str, str], problem: str, l2: float, seed: int) -> bool:
    return (row["problem"], float(row["l2"]), int(row["seed"])) == (problem, l2, seed)


if __name__ == "__main__":
    main(*sys.argv[1:])
