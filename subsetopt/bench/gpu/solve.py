"""Seconds of `lbfgs` on a tenth of MNIST to its gradient test: plain, with CUDA graphs, and compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch

from subsetopt.bench.gpu.clocks import timed
from subsetopt.bench.gpu.data import images
from subsetopt.bench.gpu.part import BenchPart, Row
from subsetopt.data import Preprocess, draw
from subsetopt.models import build_model
from subsetopt.objective import Objective
from subsetopt.solvers import SolveResult, minimize

GTOL, MOST, TINY_MOST = 1e-5, 2000, 5
VARIANTS = ("plain", "cuda_graphs", "compile")


def measure(part: BenchPart) -> None:
    """Add one row per way to evaluate; compiling comes last, since it takes longest to begin."""
    part.title = f"L-BFGS on 10 % of MNIST, zoo cnn, l2 = 1e-3, to max|g| <= {GTOL:g}"
    dataset, part.data = images("mnist", part.tiny)
    rows = draw(len(dataset.train), fraction=0.1, seed=0, stratify=dataset.train.targets)
    inputs, targets = dataset.train.inputs[rows].to(part.device), dataset.train.targets[rows].to(part.device)
    preprocess = Preprocess(dataset.normalization, torch.float32)

    def objective(variant: str) -> Objective:
        model = build_model("cnn", in_shape=dataset.in_shape, n_outputs=dataset.n_outputs).to(part.device)
        return Objective(
            model,
            inputs,
            targets,
            l2=1e-3,
            preprocess=preprocess,
            cuda_graphs=variant == "cuda_graphs",
            compile=variant == "compile",
        )

    for name in VARIANTS:
        if part.device.type != "cuda" and name == "compile":
            part.notes.append("compile is left out on a CPU, where the tests try it")
            continue
        part.measure({"evaluation": name}, partial(_measure_variant, part, objective, name))


def _measure_variant(part: BenchPart, objective: Callable[[str], Objective], variant: str, row: Row) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        problem = objective(variant)
        w = problem.initial()
        row["first_evaluation_s"] = timed(lambda: problem.value_and_gradient(w), part.device)
        part.save("running")
        problem.value_and_gradient(w)
        results: list[SolveResult] = []
        row["seconds"] = timed(lambda: results.append(_solve(part, problem)), part.device)
        result = results[0]
    evaluations = result.counts["evaluations"]
    row |= {
        "stop": str(result.stop_reason),
        "iterations": result.iterations,
        "evaluations": evaluations,
        "ms_per_evaluation": 1e3 * row["seconds"] / max(1, evaluations),
        "loss": result.loss,
        "gradient_norm": result.gradient_norm,
        "samples": problem.n_samples,
        "parameters": problem.size,
    }
    if caught:
        row["note"] = str(caught[0].message)[:120]


def _solve(part: BenchPart, problem: Objective) -> SolveResult:
    most = TINY_MOST if part.tiny else MOST
    return minimize(problem, method="lbfgs", gtol=GTOL, max_iterations=most, callback=lambda state: part.over)
