"""A small run as it lies on disk: a warm-up, a subset solve and a hand-off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


def _phase(role: str, method: str, data: str, reason: str, **more: Any) -> dict[str, Any]:
    facts = {
        "role": role,
        "method": method,
        "data": data,
        "samples": 129 if data == "subset" else 1294,
        "stop_reason": reason,
        "converged": reason == "gradient",
        "loss": 0.25,
        "gradient_norm": 8.1e-6,
        "iterations": 120,
        "counts": {"evaluations": 131, "products": 0},
        "epoch_equivalents": 13.1,
        "seconds": 2.5,
    }
    return {**facts, **more}


@pytest.fixture
def result() -> dict[str, Any]:
    """The content of a result.json."""
    warmup = _phase("warmup", "adam", "subset", "schedule_end", gradient_norm=None, epoch_equivalents=0.5)
    solve = _phase("solve", "lbfgs", "subset", "gradient")
    handoff = _phase("handoff", "lbfgs", "full", "budget", seconds=75.0)
    before = {
        "subset": {"loss": 0.01, "accuracy": 1.0},
        "train": {"loss": 0.5, "accuracy": 0.88},
        "validation": {"loss": 0.52, "accuracy": 0.875},
        "test": {"loss": 0.55, "accuracy": 0.86},
    }
    after = {
        "subset": {"loss": 0.02, "accuracy": 0.99},
        "train": {"loss": 0.03, "accuracy": 0.985},
        "validation": {"loss": 0.1, "accuracy": 0.9625},
        "test": {"loss": 0.12, "accuracy": 0.955},
    }
    return {
        "version": "0.1.0",
        "status": "done",
        "seed": 7,
        "dataset": {
            "name": "digits",
            "task": "classification",
            "in_shape": [1, 8, 8],
            "n_outputs": 10,
            "train": 1294,
            "validation": 143,
            "test": 360,
        },
        "normalization": None,
        "model": {"name": "mlp", "args": {}, "parameters": 610},
        "overdetermination": {
            "samples": 129,
            "outputs": 10,
            "parameters": 610,
            "ratio": 129 * 10 / 610,
            "ratio_full": 1294 * 10 / 610,
            "verdict": "The subset sets twice as many equations.",
            "drawn": 129,
            "augment_copies": 0,
        },
        "phases": [warmup, solve, handoff],
        "solve": {"solver": "lbfgs", **solve},
        "handoff": handoff,
        "metrics": after,
        "metrics_before_handoff": before,
        "cost": {
            "epoch_equivalents": 23.6,
            "evaluation_epoch_equivalents": 1.1,
            "seconds": 80.0,
            "by_purpose": {
                "train": {"epoch_equivalents": 20.1, "samples": 26010, "calls": 140},
                "line_search": {"epoch_equivalents": 3.5, "samples": 4530, "calls": 11},
                "evaluation": {"epoch_equivalents": 1.1, "samples": 3852, "calls": 8},
            },
            "prices": {"gradient": 1.0, "forward": 0.34},
        },
        "warnings": ["Q is close to 1"],
    }


@pytest.fixture
def run_directory(tmp_path: Path, result: dict[str, Any]) -> Path:
    """A finished run directory with metrics and result."""
    lines = []
    cost = 0.0
    for number, (phase, steps, price) in enumerate(
        zip(result["phases"], (20, 120, 10), (0.025, 0.1, 1.0), strict=True)
    ):
        for step in range(steps):
            cost += price
            loss = {0: 2.3 * 0.95**step, 1: 0.85 * 0.96**step + 0.02, 2: 0.6 * 0.7**step + 0.05}[number]
            lines.append(
                {
                    "phase": number,
                    "iteration": step,
                    "loss": loss,
                    "gradient_norm": 0.1,
                    "evaluations": step,
                    "products": 0,
                    "epoch_equivalents": cost,
                    "seconds": cost,
                    **{key: phase[key] for key in ("role", "method", "data")},
                }
            )
    lines[0]["loss"] = None  # a first-order phase knows no loss before its first step
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "result.json").write_text(json.dumps(result))
    return tmp_path
