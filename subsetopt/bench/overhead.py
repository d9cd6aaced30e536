"""What a solver costs beyond the evaluations that it asks for: the MNIST CNN on 6000 samples, float32."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from subsetopt.bench.contestants import Contestant, ours, torch_lbfgs
from subsetopt.bench.images import Images
from subsetopt.bench.recorder import EvaluationRecorder
from subsetopt.bench.timing import LONG, Clock, sorted_by_turns, synchronise
from subsetopt.distributed import Ranks
from subsetopt.models import build_model
from subsetopt.objective import Objective

SAMPLES, QUICK_SAMPLES = 6000, 100
ITERATIONS, QUICK_ITERATIONS = 10, 2


def measure_overhead(images: Images, repeats: int, quick: bool, device: torch.device, clock: Clock) -> dict[str, Any]:
    """Return for each solver the time of a solve outside loss and gradient, as a share of the time inside."""
    samples, iterations = (QUICK_SAMPLES, QUICK_ITERATIONS) if quick else (SAMPLES, ITERATIONS)
    objective = image_objective(images, samples, device)
    objective.value_and_gradient(objective.initial())
    table: dict[str, Contestant] = {
        "lbfgs": ours("lbfgs"),
        "ncg": ours("ncg"),
        "scipy:L-BFGS-B": ours("scipy:L-BFGS-B"),
        "torch:lbfgs": torch_lbfgs(100),
    }
    few = image_objective(images, QUICK_SAMPLES, device)
    for contestant in table.values():  # what is imported and made at the first use is not a solver's overhead
        contestant(EvaluationRecorder(few, clock=clock), 0.0, QUICK_ITERATIONS)
    shares: dict[str, list[float]] = {name: [] for name in table}
    rows: dict[str, dict[str, Any]] = {}
    for repeat in range(repeats):
        for name in sorted_by_turns(table, repeat):
            if name in rows and rows[name]["seconds"] > LONG:
                continue
            recorder = EvaluationRecorder(objective, clock=clock)
            synchronise(device)
            start = clock()
            solved = table[name](recorder, 0.0, iterations)
            synchronise(device)
            seconds = clock() - start
            shares[name].append((seconds - recorder.inside) / recorder.inside)
            rows[name] = {
                "solver": name,
                "iterations": solved.iterations,
                "evaluations": recorder.evaluations,
                "seconds": seconds,
                "seconds_per_evaluation": recorder.inside / recorder.evaluations,
            }
    for name, row in rows.items():
        row["overhead"] = statistics.median(shares[name])
    return {
        "data": images.name,
        "samples": objective.n_samples,
        "parameters": objective.size,
        "rows": [rows[name] for name in table],
    }


def image_objective(
    images: Images, samples: int, device: torch.device, l2: float = 1e-3, ranks: Ranks | None = None
) -> Objective:
    """Return the CNN of the model zoo on the first `samples` images, float32, shared by `ranks`."""
    inputs, targets = images.inputs[:samples].to(device), images.targets[:samples].to(device)
    model = build_model("cnn", in_shape=tuple(inputs.shape[1:]), n_outputs=10).to(device)
    return Objective(model, inputs, targets, l2=l2, ranks=ranks)
