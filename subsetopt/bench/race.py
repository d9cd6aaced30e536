"""Time to a loss: the same CNN on the same subset from the same start, contestants by turns."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from subsetopt.bench.contestants import Contestant, ours, torch_lbfgs
from subsetopt.bench.images import Images
from subsetopt.bench.overhead import image_objective
from subsetopt.bench.recorder import EvaluationRecorder
from subsetopt.bench.timing import LONG, Clock, sorted_by_turns
from subsetopt.objective import Objective

SAMPLES, QUICK_SAMPLES = 500, 50
MAX_CALLS, QUICK_MAX_CALLS = 150, 20
LEVELS = (1.0, 0.1, 0.01)  # loss above the lowest one seen, relative to it

Trace = list[tuple[float, int, float]]


def measure_race(images: Images, repeats: int, quick: bool, device: torch.device, clock: Clock) -> dict[str, Any]:
    """Return for each contestant the seconds and calls to (1 + level) times the lowest loss any of them reached.

    A call is a loss with its gradient, or a curvature product. Contestants end after the same number of calls.
    """
    samples, limit = (QUICK_SAMPLES, QUICK_MAX_CALLS) if quick else (SAMPLES, MAX_CALLS)
    objective = image_objective(images, samples, device)
    objective.value_and_gradient(objective.initial())
    table: dict[str, Contestant] = {
        "lbfgs": ours("lbfgs"),
        "ncg": ours("ncg"),
        "newton-cg": ours("newton-cg"),
        "newton-cg, ggn": ours("newton-cg", curvature="ggn"),
        "torch:lbfgs": torch_lbfgs(100),
        "scipy:L-BFGS-B": ours("scipy:L-BFGS-B"),
    }
    traces: dict[str, list[Trace]] = {name: [] for name in table}
    for repeat in range(repeats):
        for name in sorted_by_turns(table, repeat):
            if traces[name] and traces[name][0][-1][0] > LONG:
                continue
            traces[name].append(_race(objective, table[name], limit, clock))
    best = min(loss for runs in traces.values() for _, _, loss in runs[0])
    targets = [best * (1 + level) for level in LEVELS]
    rows = [
        {"solver": name, "to": [_reach(runs, target) for target in targets], "curve": _curve(runs[0])}
        for name, runs in traces.items()
    ]
    return {
        "data": images.name,
        "samples": objective.n_samples,
        "parameters": objective.size,
        "calls": limit,
        "lowest_loss": best,
        "levels": list(LEVELS),
        "rows": rows,
    }


def _race(objective: Objective, contestant: Contestant, limit: int, clock: Clock) -> Trace:
    recorder = EvaluationRecorder(objective, limit, tracing=True, clock=clock)
    contestant(recorder, 0.0, limit)
    return recorder.trace


def _reach(runs: list[Trace], target: float) -> dict[str, float | int] | None:
    """Return median seconds and calls to `target`; None where it was not reached."""
    firsts = [next(((seconds, calls) for seconds, calls, loss in run if loss <= target), None) for run in runs]
    reached = [first for first in firsts if first is not None]
    if len(reached) < len(runs):
        return None
    return {"seconds": statistics.median(seconds for seconds, _ in reached), "calls": reached[0][1]}


def _curve(run: Trace) -> list[tuple[float, int, float]]:
    """Return the points at which the lowest loss so far fell."""
    curve: Trace = []
    for point in run:
        if not curve or point[2] < curve[-1][2]:
            curve.append(point)
    return curve
