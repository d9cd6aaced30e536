"""The cost to come near the full-set minimum by draws: python residual.py PROBLEM[,PROBLEM] SEEDS [KEY=VALUE ...]

PROBLEM is digits, mlp or cnn (`PROBLEMS`). F* is the lowest objective that L-BFGS on all data reaches from scratch
within the problem's `max_epochs`. Prints one CSV line per problem, seed and method: the cost in epoch-equivalents, all
of it charged, until the objective on all data is within each of LEVELS of F*, and at 5 % the share of that of L-BFGS
from scratch. The objective on all data is looked at after every LOOK iterations of a round, uncharged. Settings given
replace those of the draws. Beside draws by residual stand uniform ones with the same settings, and with their own where
the problem has them in TUNED, and no draws: the same start, then all data with the same preconditioner.
"""

from __future__ import annotations

import ast
import sys
import warnings
from typing import Any

from growing import reached

from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.training.phases.factory import build_phases
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import make_config
from subsetopt.training.splits import SplitName

LEVELS = (1.5, 1.2, 1.1, 1.05)
LOOK = 4
PROBLEMS: dict[str, dict[str, Any]] = {
    "digits": {"dataset": "digits", "model": "mlp", "validation_fraction": 0.1, "max_epochs": 400},
    "mlp": {"dataset": "mnist", "model": "mlp", "validation_fraction": 0.8, "max_epochs": 400},
    "cnn": {"dataset": "mnist", "model": "cnn", "validation_fraction": 0.9, "max_epochs": 300},
}
SCRATCH = {"subset_frac": 1.0}
METHODS: dict[str, dict[str, Any]] = {
    "residual": {"subset_draw": "residual"},
    "uniform": {"subset_draw": "residual", "draw_uniform": 1.0},
    "start then all": {"subset_draw": "residual", "draw_share": 1.0},
}
TUNED: dict[str, dict[str, Any]] = {
    "digits": {"draw_evaluations": 8},
    "mlp": {"draw_share": 0.5, "draw_evaluations": 8},
}


def trace(settings: dict[str, Any], goal: float = 0.0) -> list[tuple[float, float]]:
    """Return (cost, objective on all data) along a run, until the latter is at or below `goal`."""
    data, budget, run = prepare(make_config({"handoff": "none", "max_iterations": None, **settings}))
    full = run.model.objective(data, SplitName.TRAIN)
    points: list[tuple[float, float]] = []
    w = run.model.flat.initial()
    for phase in build_phases(data, budget, run):
        budget.ledger.open_phase(phase.config.epochs)
        state, seen = phase.start(w), 0
        while phase.terminate(state) is None:
            try:
                state = phase.step(state)
            except BudgetExhausted:
                return points
            solver = getattr(state, "solver", None)
            if solver is None or (not getattr(state, "whole", True) and solver.iterations < seen + LOOK):
                continue
            seen, whole = solver.iterations, getattr(state, "whole", True)
            points.append((budget.ledger.cost, solver.loss if whole else float(full.value(solver.w, "evaluation"))))
            if points[-1][1] <= goal:
                return points
        w = phase.finish(state).w
    return points


def main(problems: str, seeds: str, *given: str) -> None:
    """Run every method on every problem for every seed."""
    warnings.simplefilter("ignore")
    own = {key: ast.literal_eval(value) for key, value in (pair.split("=", 1) for pair in given)}
    print("problem,seed,method,minimum," + ",".join(f"to {level}" for level in LEVELS) + ",share", flush=True)
    for problem in problems.split(","):
        for seed in map(int, seeds.split(",")):
            shared = {**PROBLEMS[problem], "seed": seed}
            base = trace({**shared, **SCRATCH})
            lowest = min(loss for _, loss in base)
            scratch = reached(base, LEVELS[-1] * lowest)
            rows = {"scratch": base}
            methods = {name: {**settings, **own} for name, settings in METHODS.items()}
            if problem in TUNED:
                methods["uniform tuned"] = METHODS["uniform"] | TUNED[problem]
            for name, settings in methods.items():
                rows[name] = trace({**shared, **settings}, LEVELS[-1] * lowest)
            for name, points in rows.items():
                costs = [reached(points, level * lowest) for level in LEVELS]
                share = costs[-1] / scratch if costs[-1] and scratch else None
                shown = ["" if cost is None else f"{cost:.2f}" for cost in costs]
                last = "" if share is None else f"{share:.3f}"
                print(",".join([problem, str(seed), name, f"{lowest:.6g}", *shown, last]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
