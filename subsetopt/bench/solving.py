"""All contestants on the problem set: calls to max|g| <= gtol, seconds, synchronisations, ratios to the peers."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from subsetopt.bench.contestants import FIRST_ORDER_PEERS, OURS, Contestant, contestants
from subsetopt.bench.counters import counting
from subsetopt.bench.images import Images
from subsetopt.bench.problems import CNN, PROBLEMS, Problem, cnn_problem
from subsetopt.bench.recorder import EvaluationRecorder
from subsetopt.bench.timing import LONG, Clock, median_seconds, sorted_by_turns
from subsetopt.objective import FunctionObjective

GTOL = 1e-6
MAX_ITERATIONS = 10_000
LARGE_PROBLEM = 1000  # from so many parameters only the contestants of `LARGE_CONTESTANTS` start
LARGE_CONTESTANTS = (*OURS, "scipy:L-BFGS-B", "scipy:trust-ncg", "torch:lbfgs")
QUICK_PROBLEMS = ("rosenbrock-2", "beale", "trigonometric-10", "powell-singular-40")
INSTRUMENTED, INSTRUMENTED_ITERATIONS, INSTRUMENTED_CALLS = ("mlp-171", "cnn"), 30, 60
PRICE_PASSES = 15

Progress = Callable[[str], None]


def measure_solvers(
    images: Images, repeats: int, quick: bool, clock: Clock, progress: Progress, names: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a row per problem and contestant, the prices of products, and geometric means; float64, on the CPU.

    `names` picks problems, "cnn" the one on images; without them the whole set is run, or some of it if `quick`.
    """
    chosen = names or (QUICK_PROBLEMS if quick else (*PROBLEMS, CNN))
    problems = [cnn_problem(images) if name == CNN else PROBLEMS[name] for name in chosen]
    for contestant in contestants().values():
        _solve(PROBLEMS["beale"], contestant)  # what is imported or compiled at first use is nobody's solve
    rows: list[dict[str, Any]] = []
    for problem in problems:
        progress(problem.name)
        rows += _solve_all(problem, repeats, clock)
    observed = [problem for problem in problems if quick or problem.name.startswith(INSTRUMENTED)]
    return {
        "gtol": GTOL,
        "rows": rows,
        "geometric_means": geometric_means(rows),
        "instrumented": [row for problem in observed for row in _observe(problem)],
    }


def _solve_all(problem: Problem, repeats: int, clock: Clock) -> list[dict[str, Any]]:
    price = product_price(problem, clock)
    table = starters(problem)
    rows: dict[str, dict[str, Any]] = {}
    times: dict[str, list[float]] = {name: [] for name in table}
    for repeat in range(repeats):
        for name in sorted_by_turns(table, repeat):
            if times[name] and times[name][0] > LONG:
                continue
            start = clock()
            row = _solve(problem, table[name])
            times[name].append(clock() - start)
            rows[name] = {"problem": problem.name, "solver": name, **row}
    for name, row in rows.items():
        row["product_price"] = price
        row["gradient_equivalents"] = row["evaluations"] + row["linearisations"] + price * row["products"]
        row["seconds"] = statistics.median(times[name])
        row["timed"] = len(times[name])
    return [rows[name] for name in table]


def _solve(problem: Problem, contestant: Contestant) -> dict[str, Any]:
    recorder = EvaluationRecorder(FunctionObjective(problem.fun, problem.x0), problem.max_calls)
    solved = contestant(recorder, GTOL, MAX_ITERATIONS)
    loss, gradient = FunctionObjective(problem.fun, problem.x0).value_and_gradient(solved.w)
    largest = float(gradient.abs().amax())
    return {
        "success": largest <= GTOL,
        "reason": solved.reason,
        "evaluations": recorder.evaluations,
        "products": recorder.products,
        "linearisations": recorder.linearisations,  # each records the graph of loss and gradient anew
        "iterations": solved.iterations,
        "loss": float(loss),
        "gradient_norm": largest,
    }


def starters(problem: Problem) -> dict[str, Contestant]:
    """Return the contestants that start on `problem`: on a large one, ours and the peers that they are held to most."""
    table = contestants()
    if problem.x0.numel() < LARGE_PROBLEM:
        return table
    return {name: table[name] for name in LARGE_CONTESTANTS}


def product_price(problem: Problem, clock: Clock) -> float:
    """Return the time of a Hessian product in units of loss and gradient, both at the start, median over passes."""
    objective = FunctionObjective(problem.fun, problem.x0)
    w = objective.initial()
    _, v = objective.value_and_gradient(w)
    at = objective.linearise(w)
    seconds = median_seconds(
        {"gradient": lambda: objective.value_and_gradient(w), "hvp": lambda: at.hvp(v)}, PRICE_PASSES, clock
    )
    return seconds["hvp"] / seconds["gradient"]


def _observe(problem: Problem) -> list[dict[str, Any]]:
    """Return synchronisations per iteration and peak bytes in the first iterations, at which counting slows a solve."""
    rows = []
    for name, contestant in starters(problem).items():
        recorder = EvaluationRecorder(FunctionObjective(problem.fun, problem.x0), INSTRUMENTED_CALLS)
        with counting() as counters:
            solved = contestant(recorder, GTOL, INSTRUMENTED_ITERATIONS)
        done = max(1, solved.iterations)
        calls = max(1, recorder.evaluations + recorder.products)
        on_device = not name.startswith("scipy:")
        rows.append(
            {
                "problem": problem.name,
                "solver": name,
                "iterations": solved.iterations,
                "evaluations": recorder.evaluations,
                "products": recorder.products,
                "synchronisations_per_iteration": counters.synchronisations / done if on_device else None,
                "synchronisations_per_call": counters.synchronisations / calls if on_device else None,
                "peak_bytes": counters.peak_bytes if on_device else None,
            }
        )
    return rows


def geometric_means(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the comparisons of the issue: each over the problems where ours and the peer (the better of several)
    succeed.
    """
    table = {(row["problem"], row["solver"]): row for row in rows}
    comparisons = (
        ("lbfgs", FIRST_ORDER_PEERS, "evaluations"),
        ("lbfgs-10", FIRST_ORDER_PEERS, "evaluations"),
        ("ncg", ("scipy:CG",), "evaluations"),
        ("newton-cg", ("scipy:trust-ncg",), "gradient_equivalents"),
        ("newton-cg", ("scipy:Newton-CG",), "gradient_equivalents"),
    )
    return [_compare(table, *comparison) for comparison in comparisons]


def _compare(
    table: Mapping[tuple[str, str], Mapping[str, Any]], ours: str, peers: tuple[str, ...], unit: str
) -> dict[str, Any]:
    ratios: dict[str, float] = {}
    failed: dict[str, list[str]] = {name: [] for name in (ours, *peers)}
    for problem in dict.fromkeys(problem for problem, _ in table):
        entries = {name: table[problem, name] for name in (ours, *peers) if (problem, name) in table}
        for name, row in entries.items():
            if not row["success"]:
                failed[name].append(problem)
        reached = [entries[name][unit] for name in peers if name in entries and entries[name]["success"]]
        if reached and ours in entries and entries[ours]["success"]:
            ratios[problem] = entries[ours][unit] / min(reached)
    mean = math.exp(statistics.fmean(map(math.log, ratios.values()))) if ratios else None
    return {"ours": ours, "peers": list(peers), "unit": unit, "mean": mean, "ratios": ratios, "failed": failed}
