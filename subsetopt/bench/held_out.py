"""L-BFGS on the development or the held-out list beside scipy's and torch's: `python -m subsetopt.bench.held_out OUT`.

Each line of OUT is a solve: evaluations to max|g| <= 1e-6, and the records of the loss, from which follow evaluations
to a loss that all are held to (Moré & Wild 2009): f0 - f >= (1 - tau) (f0 - best), the best over all solvers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor

from subsetopt.bench.contestants import Contestant, ours, torch_lbfgs
from subsetopt.bench.problems import PROBLEMS, Problem
from subsetopt.bench.problems_cutest import PREFIX, cutest_names, cutest_problem
from subsetopt.bench.problems_data import DATA_DEVELOPMENT, DATA_HELD_OUT, data_problem
from subsetopt.bench.recorder import EvaluationRecorder
from subsetopt.objective import FunctionObjective
from subsetopt.objective.protocol import BudgetExhausted, Purpose

GTOL, TAU, LIMIT = 1e-6, 1e-6, 500
PEERS = ("scipy-10", "scipy-100", "torch-10", "torch-100")
Solve = Callable[["Tracer"], None]


class _ReachedError(Exception):
    """Leaves scipy at the first gradient below the goal."""


@dataclass
class Tracer(EvaluationRecorder):
    """A recorder that notes at which evaluation the loss was at its lowest so far, and when max|g| met the goal."""

    lowest: list[tuple[int, float]] = field(default_factory=list)
    reached: int | None = None
    first_loss: float = math.nan

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        """Return loss and gradient, noted."""
        loss, gradient = super().value_and_gradient(w, purpose)
        value = float(loss)
        self.first_loss = value if self.evaluations == 1 else self.first_loss
        if value < (self.lowest[-1][1] if self.lowest else math.inf):
            self.lowest.append((self.evaluations, value))
        if self.reached is None and float(gradient.abs().amax()) <= GTOL:
            self.reached = self.evaluations
        return loss, gradient


def scipy_lbfgs(pairs: int) -> Solve:
    """Return scipy's L-BFGS-B with `pairs` curvature pairs, its own tests switched off."""

    def solve(tracer: Tracer) -> None:
        def fun(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            loss, gradient = tracer.value_and_gradient(torch.from_numpy(x.copy()))
            if tracer.reached is not None:
                raise _ReachedError
            return float(loss), gradient.numpy().copy()

        options = {"maxcor": pairs, "ftol": 0.0, "gtol": 0.0, "maxfun": 10**6, "maxiter": 10**6, "maxls": 40}
        minimize: Any = optimize.minimize  # its stubs know no function that returns a pair of unequal types
        with contextlib.suppress(_ReachedError):
            minimize(fun, tracer.initial().numpy(), jac=True, method="L-BFGS-B", options=options)

    return solve


def solvers() -> dict[str, Solve]:
    """Return L-BFGS of scipy, torch and this package."""
    return {
        "scipy-10": scipy_lbfgs(10),
        "scipy-100": scipy_lbfgs(100),
        "torch-10": _to_goal(torch_lbfgs(10)),
        "torch-100": _to_goal(torch_lbfgs(100)),
        "lbfgs": _to_goal(ours("lbfgs")),
    }


def _to_goal(contestant: Contestant) -> Solve:
    def solve(tracer: Tracer) -> None:
        contestant(tracer, GTOL, 10**6)

    return solve


def names(chosen: str) -> list[str]:
    """Return the problems of the list `chosen`, development or held-out."""
    development = chosen == "development"
    return [*cutest_names(development), *(DATA_DEVELOPMENT if development else DATA_HELD_OUT)]


def problem(name: str) -> Problem:
    """Return a problem of either list, or of the problem set that L-BFGS was first tuned on."""
    if name.startswith(PREFIX):
        return cutest_problem(name.removeprefix(PREFIX))
    return PROBLEMS[name] if name in PROBLEMS else data_problem(name)


def solved(case: Problem, solve: Solve) -> dict[str, Any]:
    """Return what one solver did within `LIMIT` evaluations."""
    tracer = Tracer(FunctionObjective(case.fun, case.x0), LIMIT)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            solve(tracer)
    except BudgetExhausted:
        pass
    return {"reached": tracer.reached, "first_loss": tracer.first_loss, "lowest": tracer.lowest}


def evaluations(rows: Iterable[Mapping[str, Any]], by_loss: bool) -> dict[tuple[str, str], int | None]:
    """Return evaluations by problem and solver, to the gradient or, with `by_loss`, to the common loss."""
    table = {(row["problem"], row["solver"]): row for row in rows}
    if not by_loss:
        return {key: row["reached"] for key, row in table.items()}
    best: dict[str, float] = {}
    for (name, _), row in table.items():
        best[name] = min([best.get(name, math.inf), *(loss for _, loss in row["lowest"])])
    counts: dict[tuple[str, str], int | None] = {}
    for (name, solver), row in table.items():
        goal = row["first_loss"] - (1 - TAU) * (row["first_loss"] - best[name])
        counts[name, solver] = next((count for count, loss in row["lowest"] if loss <= goal), None)
    return counts


def summary(counts: Mapping[tuple[str, str], int | None]) -> dict[str, Any]:
    """Return successes by solver and ratios of `lbfgs` to the best peer by problem, with their geometric mean."""
    ratios = {}
    for name in dict.fromkeys(name for name, _ in counts):
        peers = [count for peer in PEERS if (count := counts.get((name, peer))) is not None]
        mine = counts.get((name, "lbfgs"))
        if peers and mine is not None:
            ratios[name] = mine / min(peers)
    successes = {solver: sum(counts[key] is not None for key in counts if key[1] == solver) for _, solver in counts}
    mean = math.exp(statistics.fmean(map(math.log, ratios.values()))) if ratios else None
    return {"successes": successes, "mean": mean, "ratios": ratios}


def main() -> None:
    """Solve every problem of a list with every solver; append to the file and print both summaries."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--list", dest="chosen", choices=["development", "held-out"], default="held-out")
    parser.add_argument("--problem", action="append", help="Take these problems instead of a list.")
    arguments = parser.parse_args()
    rows = []
    with arguments.output.open("a", encoding="utf-8") as file:
        for name in arguments.problem or names(arguments.chosen):
            case = problem(name)
            for solver, solve in solvers().items():
                rows.append({"problem": name, "solver": solver, **solved(case, solve)})
                file.write(json.dumps(rows[-1]) + "\n")
                file.flush()
    for by_loss in (False, True):
        print("to the common loss" if by_loss else "to max|g| <= 1e-6", json.dumps(summary(evaluations(rows, by_loss))))


if __name__ == "__main__":
    main()
