"""`l2="auto"`: the strength of a prior that held-out rows like best, from a short path on some of the rows.

The penalty is c / rows: a Gaussian prior of one width, whatever the number of rows. How strong it should be depends on
the noise in the targets, which nothing but other rows shows. From strong to weak each c is solved from the end of the
last one, as on an L2 path, to a looser test, and the first weak ones that predict worse end the search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from subsetopt.sklearn.network import Network
from subsetopt.sklearn.perceptron import Sample, objective_of
from subsetopt.sklearn.solve import Curvature, Solve

ROWS = 2500  # at most so many take part in the choice
HELD_OUT = 0.2  # of these
LOOSER = 3.0  # how much larger a gradient may be than in the solve that follows
LEAST_ITERATIONS, SHARE_OF_ITERATIONS = 20, 0.25  # for one weaker strength: so many, or this share of `max_iter`
PATIENCE = 2  # strengths without a lower held-out loss that end the search,
WORSE = 1.05  # or one with a loss so many times as high


@dataclass
class Choice:
    """The strength found, and where the next solve may start; `tried` has (c, held-out loss, evaluations) of each."""

    strength: float
    w: Tensor
    curvature: Curvature | None
    scale: float | None
    tried: list[tuple[float, float, int]] = field(default_factory=list)


def choose(
    network: Network,
    fitted: Sample,
    held_out: Sample,
    strengths: tuple[float, ...],
    method: str,
    gtol: float,
    max_iter: int,
) -> Choice:
    """Return which of `strengths`, strong to weak, has the lowest loss on `held_out` when solved on `fitted`."""
    rows = float(len(fitted)) if fitted.weights is None else float(fitted.weights.sum(dtype=torch.float64))
    judge = objective_of(network, held_out, 0.0)
    choice = Choice(strengths[0], network.start, None, None)
    least, waited = math.inf, 0
    w, curvature, left = network.start, None, max_iter
    for strength in strengths:
        solve = Solve(method, LOOSER * gtol, left, w, strength / rows, curvature=curvature)
        solve.keeps, solve.scale = True, choice.scale
        result = solve.stage(objective_of(network, fitted, strength / rows), last=True)
        w, curvature, choice.scale = solve.w, solve.curvature, solve.scale
        loss = float(judge.value(w, "selection"))
        choice.tried.append((strength, loss, int(result.counts["evaluations"])))
        waited = 0 if loss < least else waited + 1
        if loss < least:
            least, choice.strength, choice.w, choice.curvature = loss, strength, w, curvature
        if waited == PATIENCE or loss > WORSE * least:
            break
        left = min(max_iter, max(LEAST_ITERATIONS, round(SHARE_OF_ITERATIONS * max_iter)))
    return choice
