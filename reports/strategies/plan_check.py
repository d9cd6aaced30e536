"""What `subsetopt plan` predicts beside what is measured: python plan_check.py DATASET MODEL L2 SEEDS EXCESSES

Epoch-equivalents until the objective on all data is within each relative excess of its minimum, in float64. Solvers are
looked at along one run. SGD and Adam (the best of four rates) and kfac-stream have a run for each budget of 2, 4, ...
64 epochs, and the first that gets there counts. One JSON line per seed, strategy and excess.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from growing import reached, trace

from subsetopt.plan.plan import make_plan
from subsetopt.training import make_config, train
from subsetopt.training.preparation import prepare
from subsetopt.training.splits import SplitName

CAP = 2000.0
BUDGETS = (2, 4, 8, 16, 32, 64)
RATES = {"sgd": (0.05, 0.1, 0.2, 0.4), "adam": (0.003, 0.01, 0.02, 0.04)}
FULL: dict[str, Any] = {"solver": "none", "handoff": "full", "handoff_epochs": 1e6}
TRACED: dict[str, dict[str, Any]] = {
    "lbfgs": {**FULL, "handoff_solver": "lbfgs"},
    "newton-cg": {**FULL, "handoff_solver": "newton-cg"},
    "lbfgs@0.1+full": {"subset_frac": 0.1, "stop_at": "noise", "handoff": "full", "handoff_epochs": 1e6},
    "grow": {"grow": 2, "start": 0.01},
}


def at_budgets(shared: dict[str, Any], variants: Sequence[dict[str, Any]], goal: float) -> list[tuple[float, float]]:
    """Return (epochs, the lowest full objective among `variants`) for each budget, until one is at or below `goal`."""
    points: list[tuple[float, float]] = []
    for epochs in BUDGETS:
        values = []
        for variant in variants:
            key = "solver_epochs" if variant.get("solver") == "kfac-stream" else "handoff_epochs"
            done = train(make_config({**shared, **variant, key: float(epochs)}), keep=False, splits=())
            data, _, run = prepare(make_config(shared))
            w = run.model.flat.load_state_dict(done.model.state_dict())
            values.append(float(run.model.objective(data, SplitName.TRAIN).value(w, "evaluation")))
        points.append((float(epochs), min(values)))
        if points[-1][1] <= goal:
            break
    return points


def curve(name: str, shared: dict[str, Any], goal: float) -> list[tuple[float, float]]:
    """Return (cost, full objective) along `name`, at least to `goal` where it gets there."""
    if name in TRACED:
        return trace({**shared, **TRACED[name]}, CAP, goal)
    if name == "kfac-stream":
        return at_budgets(shared, [{"solver": name, "handoff": "none"}], goal)
    fixed = {"solver": "none", "handoff": name, "handoff_weight_decay": shared["l2"]}
    return at_budgets(shared, [{**fixed, "handoff_lr": rate} for rate in RATES[name]], goal)


def main(dataset: str, model: str, l2: str, seeds: str, excesses: str) -> None:
    """Compare both for every seed and excess."""
    wanted = sorted(map(float, excesses.split(",")), reverse=True)
    for seed in map(int, seeds.split(",")):
        shared = {"dataset": dataset, "model": model, "l2": float(l2), "seed": seed, "dtype": "float64"}
        best = min(min(loss for _, loss in trace({**shared, **TRACED[name]}, CAP)) for name in ("lbfgs", "newton-cg"))
        plans = {excess: make_plan(make_config(shared), excess=excess) for excess in wanted}
        for name in (*TRACED, "sgd", "adam", "kfac-stream"):
            points = curve(name, shared, (1 + wanted[-1]) * best)
            for excess, plan in plans.items():
                told = next(row for row in plan.strategies if row.strategy == name).epoch_equivalents
                row = {
                    "l2": float(l2),
                    "seed": seed,
                    "excess": excess,
                    "strategy": name,
                    "predicted": told and [_rounded(told.low), _rounded(told.high)],
                    "measured": reached(points, (1 + excess) * best),
                }
                print(json.dumps(row), flush=True)
        recommended = {excess: plan.recommendation and plan.recommendation.strategy for excess, plan in plans.items()}
        told_minimum = plans[wanted[0]].wanted.full_minimum
        print(json.dumps({"minimum": best, "predicted": told_minimum, "recommended": recommended}), flush=True)


def _rounded(cost: float | None) -> float | None:
    return None if cost is None else round(cost, 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
