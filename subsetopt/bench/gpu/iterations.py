"""What an L-BFGS iteration costs beyond its evaluations, against torch.optim.LBFGS: seconds, launches, host reads."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from subsetopt.bench.gpu.clocks import by_turns, host_counts, kernel_counts
from subsetopt.bench.gpu.part import BenchPart, Row
from subsetopt.objective import FunctionObjective
from subsetopt.solvers import minimize

MEMORY = 10
FEW, MANY = 12, 42  # iterations; by the difference of two solves, with the memory full, the start cancels
REPEATS = 5

Solve = Callable[[FunctionObjective, int], tuple[int, int]]
"""(objective, iterations) -> iterations and evaluations made."""


def measure(part: BenchPart) -> None:
    """Add two rows, ours and torch's, per number of parameters."""
    part.title = f"One L-BFGS iteration, memory {MEMORY}, on a quadratic in float32"
    part.data = "f(x) = 1/2 sum a_i x_i^2, a from 1 to 10^4; figures per iteration from two solves of unlike length"
    for size in (1000, 2000) if part.tiny else (10**5, 10**6, 10**7):
        objective = quadratic(size, part.device)
        solvers: dict[str, Solve] = {"subsetopt": _ours, "torch.optim.LBFGS": _torch}
        once = {"f": partial(objective.value_and_gradient, objective.initial())}
        evaluation = by_turns(once, 20, part.device, part.deadline)["f"]
        for name, solve in solvers.items():
            labels = {"parameters": size, "solver": name, "evaluation_us": 1e6 * evaluation}
            part.measure(labels, partial(_measure_solver, part, objective, solve, evaluation))


def quadratic(size: int, device: torch.device) -> FunctionObjective:
    """Return an ill-conditioned quadratic of `size` variables, as cheap as an objective can be."""
    a = torch.logspace(0, 4, size, device=device)
    return FunctionObjective(lambda x: 0.5 * (a * x * x).sum(dtype=torch.float64), torch.ones(size, device=device))


def _measure_solver(part: BenchPart, objective: FunctionObjective, solve: Solve, evaluation: float, row: Row) -> None:
    few, many = (FEW, FEW + 3) if part.tiny else (FEW, MANY)
    made_few, made_many = solve(objective, few), solve(objective, many)
    iterations = made_many[0] - made_few[0]
    if iterations <= 0:
        raise RuntimeError(f"ended after {made_many[0]} of {many} iterations; nothing to compare")
    evaluations = (made_many[1] - made_few[1]) / iterations
    work = {count: partial(solve, objective, count) for count in (few, many)}
    seconds = by_turns(work, 2 if part.tiny else REPEATS, part.device, part.deadline)
    per_iteration = (seconds[many] - seconds[few]) / iterations
    row |= {"evaluations": evaluations, "iteration_us": 1e6 * per_iteration}
    row["overhead_us"] = 1e6 * (per_iteration - evaluations * evaluation)
    part.save("running")
    row |= _difference(host_counts(work[few]), host_counts(work[many]), iterations)
    row |= _difference(kernel_counts(work[few], part.device), kernel_counts(work[many], part.device), iterations)
    if "launches" in row:
        x = objective.initial()
        own = kernel_counts(lambda: objective.value_and_gradient(x), part.device)["launches"]
        row["launches_beyond_evaluations"] = row["launches"] - evaluations * own


def _difference(few: dict[str, int], many: dict[str, int], iterations: int) -> dict[str, Any]:
    return {name: (many[name] - few[name]) / iterations for name in few}


def _ours(objective: FunctionObjective, iterations: int) -> tuple[int, int]:
    result = minimize(objective, method="lbfgs", gtol=0.0, max_iterations=iterations, memory=MEMORY)
    return result.iterations, result.counts["evaluations"]


def _torch(objective: FunctionObjective, iterations: int) -> tuple[int, int]:
    w = objective.initial().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [w],
        max_iter=iterations,
        max_eval=10**9,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        history_size=MEMORY,
        line_search_fn="strong_wolfe",
    )
    evaluations = 0

    def closure() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        loss, w.grad = objective.value_and_gradient(w.detach())
        return loss

    optimizer.step(closure)
    return int(optimizer.state[w].get("n_iter", 0)), evaluations
