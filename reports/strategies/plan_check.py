"""What `subsetopt plan` predicts beside what is measured: python plan_check.py TABLE CASES SEEDS EXCESS [DATA]

CASES are some of `CASES`, with commas; those of files need the folder DATA of tables. Adds to the CSV file TABLE one
row per case, seed and strategy that is not in it yet: the predicted range of epoch-equivalents until the objective on
all data is within EXCESS of its minimum, what was measured (as in `plan_laws.py`; F* is the lowest that any run found),
and what `plan` recommends by epoch-equivalents, and by seconds. Empty: predicted, or measured, not to get there.
"""

from __future__ import annotations

import csv
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from growing import reached
from plan_laws import FIRST_ORDER, STREAM, TRACED, Points, at_budgets, trace

from subsetopt.plan.plan import make_plan
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import make_config

CAP = 400.0
BUDGETS = (1, 2, 4, 8, 16)
RATES = {"sgd": (0.05, 0.1, 0.2), "adam": (0.003, 0.01, 0.03)}
LARGE = 10**6  # samples from which one pass of one rate is what first-order methods get, and stages are left out
COLUMNS = (
    "case",
    "samples",
    "parameters",
    "l2",
    "seed",
    "excess",
    "strategy",
    "low",
    "high",
    "measured",
    "by units",
    "by seconds",
)
MEASURED = ("lbfgs", "lbfgs@0.1+full", "grow", "lbfgs@residual", "kfac-stream+lbfgs", *FIRST_ORDER, "kfac-stream")


def linear_classes(folder: Path, rows: int, share: float) -> dict[str, Any]:
    """Return settings for 20 normal columns, whose class is whether a linear function and noise of 0.3 are high."""
    draw = np.random.default_rng(0)
    x, w = draw.normal(size=(rows, 20)).astype(np.float32), draw.normal(size=20)
    score = x @ w / np.linalg.norm(w) + 0.3 * draw.normal(size=rows)
    path = folder / f"{rows}-{share:g}.npz"
    np.savez(path, x_train=x, y_train=(score > np.quantile(score, 1 - share)).astype(np.int64))
    return {"dataset": "npz", "data_file": path}


def wine(folder: Path) -> dict[str, Any]:
    """Return settings for scikit-learn's 178 wines."""
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    np.savez(folder / "wine.npz", x_train=x.astype(np.float32), y_train=y.astype(np.int64))
    return {"dataset": "npz", "data_file": folder / "wine.npz"}


def _table(name: str, target: str) -> Callable[[Path, Path], dict[str, Any]]:
    return lambda _, data: {"dataset": "table", "data_file": data / f"{name}.csv", "target_column": target}


CASES: dict[str, Callable[[Path, Path], dict[str, Any]]] = {
    "digits": lambda _, __: {"dataset": "digits", "model": "mlp"},
    "wine": lambda folder, _: wine(folder),
    "letter": _table("letter", "class"),
    "adult": _table("adult-train", "income"),
    "kin8nm": _table("kin8nm", "y"),
    "noisy": lambda folder, _: linear_classes(folder, 5000, 0.5),
    "rare": lambda folder, _: linear_classes(folder, 5000, 0.05),
    "million": lambda folder, _: linear_classes(folder, 1_300_000, 0.5),
}


def curve(name: str, shared: dict[str, Any], samples: int, goal: float) -> Points:
    """Return (cost, full objective) along `name`, at least to `goal` where it gets there."""
    large = samples >= LARGE
    if large and name in ("grow", "lbfgs@0.1+full"):
        return Points()
    if name in TRACED:
        return trace({**shared, **TRACED[name]}, CAP, goal)
    if name == "kfac-stream":
        variants, key = [STREAM], "solver_epochs"
    else:
        variants = [
            {"solver": "none", "handoff": name, "handoff_lr": rate}
            for rate in (RATES[name][:1] if large else RATES[name])
        ]
        key = "handoff_epochs"
    return at_budgets(shared, variants, key, BUDGETS[: 1 if large else None], goal)[0]


def check(case: str, settings: dict[str, Any], seed: int, excess: float) -> list[list[Any]]:
    """Return the rows of one case and seed."""
    shared = {**settings, "l2": settings.get("l2", 1e-3), "seed": seed}
    config = make_config(shared)
    plan, samples = make_plan(config, excess=excess, by="units"), prepare(config).data.full_size
    told = {row.strategy: row for row in plan.strategies}
    runs = {"lbfgs": curve("lbfgs", shared, samples, 0.0)}
    lowest = min(loss for _, loss in runs["lbfgs"])
    for name in MEASURED[1:]:
        if told[name].refused is None:
            runs[name] = curve(name, shared, samples, 0.98 * lowest)
    lowest = min(lowest, *(loss for points in runs.values() for _, loss in points))
    chosen = plan.recommendation and plan.recommendation.strategy
    timed = {row.strategy: row.seconds.low * row.seconds.high for row in plan.strategies if row.seconds is not None}
    fastest = min(timed, key=lambda name: timed[name], default="")
    start = [case, samples, plan.parameters, shared["l2"], seed, excess]
    rows = []
    for name in MEASURED:
        units = told[name].epoch_equivalents
        cost = reached(runs.get(name, []), (1 + excess) * lowest)
        shown = ["" if value is None else f"{value:.3g}" for value in (units and units.low, units and units.high, cost)]
        rows.append([*start, name, *shown, chosen, fastest])
    return rows


def main(table: str, cases: str, seeds: str, excess: str, data: str = ".") -> None:
    """Measure what the table has not."""
    warnings.simplefilter("ignore")
    path = Path(table)
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for case in cases.split(","):
            settings = CASES[case](Path(folder), Path(data))
            for seed in map(int, seeds.split(",")):
                with path.open(newline="", encoding="utf-8") as file:
                    known = {(row["case"], int(row["seed"]), float(row["excess"])) for row in csv.DictReader(file)}
                if (case, seed, float(excess)) in known:
                    continue
                rows = check(case, settings, seed, float(excess))
                with path.open("a", newline="", encoding="utf-8") as file:
                    csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
