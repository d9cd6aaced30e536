"""A realistic study directory: 8 methods, 3 budgets, 5 seeds.

One cell failed, one method never reaches the target, one name is long, one name and one error are HTML injections.
The numbers come from closed forms and a seeded generator; the renderer only has to show them.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

INJECTION = "<script>alert('x')</script>&\"|*"
LONG = "lbfgs@0.05-stratified-nested+nw-sketch@0.3-self-normalised"
METHODS = ("lbfgs@0.1+full", "lbfgs@0.1+srs", "newton-cg@0.05+adam", "adam", "sgd", "srs@0.1", LONG, INJECTION)
BUDGETS = (1.0, 3.0, 10.0)
SEEDS = 5
NEVER = "sgd"
_QUALITY = (0.955, 0.951, 0.957, 0.949, 0.912, 0.935, 0.947, 0.90)
COLUMNS = ("method", "budget", "seed", "epoch_equivalents", "seconds", "loss", "kind", "phase", "validation_metric")


def summary() -> dict[str, Any]:
    """Return the content of `summary.json`."""
    rng = np.random.default_rng(5)
    results = [_result(rng, index, budget) for index in range(len(METHODS)) for budget in BUDGETS]
    return {
        "title": "Digits: does second-order subset training beat SGD?",
        "dataset": "digits (1294 train, 143 validation, 360 test)",
        "model": "mlp with P = 610 parameters",
        "metric": "accuracy",
        "higher_is_better": True,
        "budgets": list(BUDGETS),
        "budget_unit": "epoch-equivalents",
        "seeds": SEEDS,
        "methods": [
            {
                "name": name,
                "description": f"the method {name}",
                "lr": {str(b): 0.01 * (i + 1) for b in BUDGETS},
                "tuning": [_tuning(i, budget) for budget in BUDGETS],
            }
            for i, name in enumerate(METHODS)
        ],
        "results": results,
        "time_to_target": [_time_to_target(index, target) for target in (0.3, 0.2) for index in range(len(METHODS))],
        "ranks": [{"method": name, "budget": b, "rank": 1 + i / 2} for i, name in enumerate(METHODS) for b in BUDGETS],
        "friedman": [{"budget": b, "metric": "accuracy", "n": SEEDS, "p": 0.0312 / b} for b in BUDGETS],
        "comparisons": [_comparison(rng, pair, b) for b in BUDGETS for pair in itertools.combinations(METHODS, 2)],
        "verdict": [
            "After 10 epoch-equivalents newton-cg@0.05+adam is the most accurate: 95.70 %.",
            "It is better than sgd (p = 0.002) and no different from lbfgs@0.1+full (p = 0.61).",
            f"{INJECTION} is worse than all others.",
        ],
        "failures": [{"cell": f"{LONG}-b10-s4", "error": "SettingError: lr = 9.9: <b>diverged</b>; try 0.1"}],
        "command": ["subsetopt", "compare", "--methods", ",".join(METHODS), "--budget", "1,3,10", "--seeds", "5"],
        "versions": {"subsetopt": "0.1.0", "torch": "2.6.0", "python": "3.12.1"},
        "machine": {"processor": "a CPU with 2 cores", "device": "cpu"},
    }


def _result(rng: np.random.Generator, index: int, budget: float) -> dict[str, Any]:
    n = SEEDS - 1 if METHODS[index] == LONG and budget == BUDGETS[-1] else SEEDS
    values = _QUALITY[index] - 0.05 / budget + 0.006 * rng.standard_normal(n)
    mean, half = float(values.mean()), float(2.776 * values.std(ddof=1) / np.sqrt(n))
    loss = 0.12 + 0.5 / budget + 0.03 * index
    return {
        "method": METHODS[index],
        "budget": budget,
        "metric": "accuracy",
        "mean": mean,
        "interval": [mean - half, mean + half],
        "n": n,
        "values": values.tolist(),
        "loss_mean": loss,
        "loss_interval": [loss * 0.95, loss * 1.05],
        "seconds_mean": budget * (0.8 + 0.15 * index),
        "cost_mean": budget * 0.99,
        "cost_including_tuning": budget * (6.0 + 0.5 * index),
    }


def _tuning(index: int, budget: float) -> dict[str, Any]:
    setting = "solve_share" if METHODS[index].startswith("lbfgs") else "lr"
    values, taken = (0.003, 0.01, 0.03, 0.1), 0.01
    scores = [None if value == 0.1 else 0.2 + abs(value - taken) * (index + 1) for value in values]
    return {
        "budget": budget,
        "setting": setting,
        setting: taken,
        "grid": list(values),
        "scores": scores,
        "inside": True,
        "trials": [{setting: value, "score": score} for value, score in zip(values, scores, strict=True)],
        "epoch_equivalents": 4 * budget,
        "seconds": 5 * budget,
    }


def _time_to_target(index: int, target: float) -> dict[str, Any]:
    if METHODS[index] == NEVER or (target == 0.2 and index > 4):
        return {
            "method": METHODS[index],
            "target": target,
            "cost_mean": None,
            "seconds_mean": None,
            "reached": 0,
            "of": SEEDS,
        }
    cost = (1.0 + index) * 0.3 / target
    return {
        "method": METHODS[index],
        "target": target,
        "cost_mean": cost,
        "seconds_mean": cost * 1.2,
        "reached": 5,
        "of": SEEDS,
    }


def _comparison(rng: np.random.Generator, pair: tuple[str, str], budget: float) -> dict[str, Any]:
    a, b = (METHODS.index(name) for name in pair)
    difference = _QUALITY[a] - _QUALITY[b]
    p = float(np.exp(-abs(difference) * 250) * rng.uniform(0.5, 1.0))
    adjusted = min(1.0, p * 28)
    verdict = "no difference" if adjusted > 0.05 else "better" if difference > 0 else "worse"
    return {
        "a": pair[0],
        "b": pair[1],
        "budget": budget,
        "metric": "accuracy",
        "difference": difference,
        "interval": [difference - 0.008, difference + 0.008],
        "p": p,
        "p_adjusted": adjusted,
        "verdict": verdict,
    }


def write_study(directory: Path, content: dict[str, Any] | None = None) -> Path:
    """Write the files that the renderer reads and return `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "study.toml").write_text('dataset = "digits"\n')
    (directory / "summary.json").write_text(json.dumps(summary() if content is None else content, indent=2))
    rng = np.random.default_rng(6)
    with (directory / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for (index, name), budget, seed in itertools.product(enumerate(METHODS), BUDGETS, range(SEEDS)):
            speed, noise = 1.5 / (1 + 0.35 * index), rng.normal(0.0, 0.06)
            for cost in np.linspace(0.0, budget, 25):
                loss = 2.3 * np.exp(-speed * cost + noise * np.sqrt(cost)) + 0.05 + 0.02 * index
                writer.writerow((name, budget, seed, cost, cost * (0.8 + 0.15 * index), loss, "train", 0, ""))
                quality = 0.95 - 0.4 * (loss - 0.05)
                writer.writerow(
                    (name, budget, seed, cost, cost * (0.8 + 0.15 * index), 1.1 * loss, "validation", 0, quality)
                )
    return directory


def vertices(d: str) -> list[tuple[float, float]]:
    """Return the corners of an SVG path of M, L, l and Z as absolute coordinates, read by the grammar of SVG."""
    points: list[tuple[float, float]] = []
    for command, numbers in re.findall(r"([MLl])([^MLlZ]*)", d):
        x, y = map(float, re.findall(r"-?(?:\d+\.?\d*|\.\d+)", numbers))
        before = points[-1] if command == "l" else (0.0, 0.0)
        points.append((before[0] + x, before[1] + y))
    return points
