"""`l2="auto"`: the strength of a prior that held-out rows like best, from a short path on some of the rows.

The penalty is c / rows: a Gaussian prior of one width, whatever the number of rows. How strong it should be depends on
the noise in the targets, which nothing but other rows shows. From strong to weak each c is solved from the end of the
last one, as on an L2 path, to a looser test, and the first weak ones that predict worse end the search.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from subsetopt.data.subset import draw
from subsetopt.sklearn.network import Network
from subsetopt.sklearn.perceptron import objective_of
from subsetopt.sklearn.rows import Rows
from subsetopt.sklearn.solve import Curvature, Solve

ROWS = 2500  # at most so many take part in the choice
HELD_OUT = 0.2  # of these
LOOSER = 3.0  # how much larger a gradient may be than in the solve that follows
LEAST_ITERATIONS, SHARE_OF_ITERATIONS = 20, 0.25  # for one weaker strength: so many, or this share of `max_iter`
BETTER = 0.98  # a weaker strength is chosen where its loss is below so many times that of the stronger one
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


def choose(like: Solve, network: Network, rows: Rows, strengths: Sequence[float], seed: int) -> Choice | None:
    """Return which of `strengths`, strong to weak, has the lowest loss on held-out rows when solved on others.

    `like` is the solve that is to follow, with its method and limits. Of losses that hardly differ the strongest
    strength counts: a weak one whose solve a loose test ended early would look as good, and fit noise in the solve that
    follows. None where the classes are too many to hold out some of each.
    """
    strata = rows.strata
    if strata is not None and len(np.unique(strata)) > HELD_OUT * min(len(rows), ROWS):
        return None
    few = rows.take(draw(len(rows), size=min(len(rows), ROWS), seed=seed, stratify=strata).numpy())
    fitted = draw(len(few), fraction=1 - HELD_OUT, seed=seed, stratify=few.strata).numpy()
    others = few.take(np.delete(np.arange(len(few)), fitted))
    return _followed(like, network, few.take(fitted), others, strengths)


def _followed(like: Solve, network: Network, fitted: Rows, held_out: Rows, strengths: Sequence[float]) -> Choice:
    sample, judge = fitted.sample(network), objective_of(network, held_out.sample(network), 0.0)
    choice = Choice(strengths[0], like.w, None, None)
    least = chosen = math.inf
    waited = 0
    solve = replace(like, gtol=LOOSER * like.gtol, keeps=True)
    for strength in strengths:
        l2 = strength / fitted.total
        solve = replace(solve, l2=l2, done=0)
        result = solve.stage(objective_of(network, sample, l2), last=True)
        loss = float(judge.value(solve.w, "selection"))
        choice.tried.append((strength, loss, int(result.counts["evaluations"])))
        waited = 0 if loss < least else waited + 1
        least = min(loss, least)
        if loss < BETTER * chosen:
            chosen, choice.strength, choice.w, choice.curvature = loss, strength, solve.w, solve.curvature
        if fitted.learnt_nothing(solve.data_loss(result)):
            solve, waited = replace(solve, w=like.w, curvature=None), 0
            continue
        if waited == PATIENCE or loss > WORSE * least:
            break
        share = max(LEAST_ITERATIONS, round(SHARE_OF_ITERATIONS * like.iterations))
        solve = replace(solve, iterations=min(like.iterations, share))
    choice.scale = solve.scale
    return choice
