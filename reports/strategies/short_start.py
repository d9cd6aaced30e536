"""The cost to come near the full-set minimum from a short start: python short_start.py DATASET MODEL HELD_OUT SEEDS CAP

Two epoch-equivalents of SGD or of the stream at their defaults, then L-BFGS on all data, alone or around a
preconditioner. F* is the lowest objective that L-BFGS on all data reaches from scratch for CAP epoch-equivalents.
Prints one JSON line per method and seed: the cost to each level in epoch-equivalents, all of it charged, and its ratio
to that of L-BFGS from scratch.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from growing import reached

from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.training.phases.factory import build_phases
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import make_config

LEVELS = (2.0, 1.5, 1.2, 1.1, 1.05, 1.02)
KFAC = {"solver_args": {"preconditioner": "kfac"}}
SGD = {"warmup": "sgd", "warmup_epochs": 2, "subset_frac": 1.0, "handoff": "none"}
STREAM = {"solver": "kfac-stream", "solver_epochs": 2, "handoff": "none"}
METHODS: dict[str, list[dict[str, Any]]] = {
    "sgd 2, lbfgs": [SGD],
    "sgd 2, lbfgs around K-FAC": [{**SGD, **KFAC}],
    "sgd 2, lbfgs around a diagonal": [{**SGD, "solver_args": {"preconditioner": "diagonal"}}],
    "lbfgs around K-FAC": [{"subset_frac": 1.0, "handoff": "none", **KFAC}],
    "stream 2, lbfgs": [STREAM, {"subset_frac": 1.0, "handoff": "none"}],
    "stream 2, lbfgs around K-FAC": [STREAM, {"subset_frac": 1.0, "handoff": "none", **KFAC}],
}


def trace(runs: list[dict[str, Any]], cap: float, goal: float = 0.0) -> list[tuple[float, float]]:
    """Return (cost, objective on all data) along the full-set solve that ends `runs`, until it is at most `goal`."""
    points: list[tuple[float, float]] = []
    w, before = None, 0.0
    for settings in runs:
        data, budget, run = prepare(make_config({"max_iterations": None, **settings, "max_epochs": cap - before}))
        w = run.model.flat.initial() if w is None else w
        for phase in build_phases(data, budget, run):
            budget.ledger.open_phase(phase.config.epochs)
            state = phase.start(w)
            while phase.terminate(state) is None:
                try:
                    state = phase.step(state)
                except BudgetExhausted:  # of a solve: the other phases end by themselves
                    return points
                if hasattr(state, "solver"):
                    points.append((before + budget.ledger.cost, state.solver.loss))
                    if points[-1][1] <= goal:
                        return points
            w = phase.finish(state).w
        before += budget.ledger.cost
    return points


def main(dataset: str, model: str, held_out: str, seeds: str, cap: str) -> None:
    """Run every method for every seed."""
    for seed in map(int, seeds.split(",")):
        shared = {"dataset": dataset, "model": model, "validation_fraction": float(held_out), "seed": seed}
        base = trace([{**shared, "subset_frac": 1.0, "handoff": "none"}], float(cap))
        lowest = min(loss for _, loss in base)
        cost = {level: reached(base, level * lowest) for level in LEVELS}
        print(json.dumps({"seed": seed, "method": "lbfgs", "minimum": lowest, "cost": cost}), flush=True)
        for name, runs in METHODS.items():
            points = trace([{**shared, **settings} for settings in runs], float(cap), LEVELS[-1] * lowest)
            own = {level: reached(points, level * lowest) for level in LEVELS}
            pairs = {level: (own[level], cost[level]) for level in LEVELS}
            share = {level: round(a / b, 3) if a and b else None for level, (a, b) in pairs.items()}
            print(json.dumps({"seed": seed, "method": name, "cost": own, "share": share}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
