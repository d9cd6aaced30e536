"""The cost to come within 10, 5 and 2 % of the full-set minimum: python growing.py DATASET MODEL HELD_OUT SEEDS CAP

F* is the lowest objective that L-BFGS on all data reaches from the same weights for CAP epoch-equivalents. Prints one
JSON line per method and seed: the cost to each level in epoch-equivalents, and its ratio to that of L-BFGS on all data.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.training.budget import Budget
from subsetopt.training.context import RunContext
from subsetopt.training.phases.solver import SolverPhase
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.settings.run import make_config
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData

LEVELS = (1.1, 1.05, 1.02)
LOOK = 0.25  # epoch-equivalents between looks at the objective on all data, which are not charged
METHODS: dict[str, dict[str, Any]] = {
    "10 % to its minimum, then full": {"subset_frac": 0.1, "handoff": "full", "handoff_epochs": 1e6},
    "10 % to its noise, then full": {
        "subset_frac": 0.1,
        "stop_at": "noise",
        "handoff": "full",
        "handoff_epochs": 1e6,
    },
    "10 % to its noise, then full, curvature carried": {"start": 0.1, "grow": 10},
}
for carry in (False, True):
    for start, factor, theta in (
        (0.01, 2, 0.05),
        (0.01, 2, 0.1),
        (0.01, 2, 0.3),
        (0.01, 4, 0.1),
        (0.01, 4, 0.3),
        (0.05, 2, 0.1),
        (0.05, 2, 0.3),
    ):
        name = f"{100 * start:g} % x{factor}, theta {theta:g}{', curvature carried' if carry else ''}"
        METHODS[name] = {"start": start, "grow": factor, "noise_theta": theta, "carry": carry}


def trace(settings: dict[str, Any], cap: float, goal: float = 0.0) -> list[tuple[float, float]]:
    """Return (cost, objective on all data) along a run, until the latter is at or below `goal`."""
    data, budget, run = prepare(make_config({"handoff": "none", "max_iterations": None, **settings, "max_epochs": cap}))
    points: list[tuple[float, float]] = []
    w = run.model.flat.initial()
    for config in run.config.phases():
        w, met = _run(data, budget, run, config, w, points, goal)
        if met:
            break
    return points


def _run(
    data: TrainingData,
    budget: Budget,
    run: RunContext,
    config: PhaseConfig,
    w: Any,
    points: list[tuple[float, float]],
    goal: float,
) -> Any:
    phase, full = SolverPhase(config, data.for_phase(config), budget, run), run.model.objective(data, SplitName.TRAIN)
    try:
        state = phase.start(w)
        while phase.terminate(state) is None:
            state, cost = phase.step(state), budget.ledger.cost
            if config.data == "full":
                points.append((cost, state.solver.loss))
            elif not points or cost >= points[-1][0] + LOOK:
                points.append((cost, float(full.value(state.solver.w, "evaluation"))))
            if points[-1][1] <= goal:
                return state.solver.w, True
    except BudgetExhausted:
        return w, True
    return phase.finish(state).w, False


def reached(points: list[tuple[float, float]], level: float) -> float | None:
    """Return the cost of the first point at or below `level`."""
    return next((cost for cost, loss in points if loss <= level), None)


def main(dataset: str, model: str, held_out: str, seeds: str, cap: str) -> None:
    """Run every method for every seed."""
    for seed in map(int, seeds.split(",")):
        shared = {"dataset": dataset, "model": model, "validation_fraction": float(held_out), "seed": seed}
        base = trace({**shared, "solver": "none", "handoff": "full", "handoff_epochs": 1e6}, float(cap))
        lowest = min(loss for _, loss in base)
        cost = {level: reached(base, level * lowest) for level in LEVELS}
        print(json.dumps({"seed": seed, "method": "full", "minimum": lowest, "cost": cost}), flush=True)
        for name, settings in METHODS.items():
            points = trace({**shared, **settings}, float(cap), LEVELS[-1] * lowest)
            own = {level: reached(points, level * lowest) for level in LEVELS}
            pairs = {level: (own[level], cost[level]) for level in LEVELS}
            share = {level: a / b if a and b else None for level, (a, b) in pairs.items()}
            print(json.dumps({"seed": seed, "method": name, "cost": own, "share": share}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
