"""The one setting of each method that a study tunes, and the search for its value.

Every method gets the same search: three values, then one more at a time beyond the best one, until the best lies inside
or the limit is reached. First-order training tunes its learning rate. A method without one tunes what matters most to
it: the share of the budget for its subset solve, the noise at which subsets grow, or what the registration of a solver
or strategy names, e.g. L-BFGS's memory or the tightness of CG's line search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from subsetopt.facts import Knob
from subsetopt.solvers import SOLVERS
from subsetopt.training.phases.first_order.setup import learning_rate
from subsetopt.training.phases.methods import METHODS
from subsetopt.training.settings.phase import PhaseConfig

START = (-1, 0, 1)


def knob_of(phases: tuple[PhaseConfig, ...], solve_share: float) -> Knob | None:
    """Return what a method tunes, None where there is nothing to tune (scipy's reference solvers)."""
    last = phases[-1]
    if last.first_order:
        return Knob("lr", learning_rate(last))
    grown = [phase for phase in phases if phase.role == "grow"]
    if grown and grown[0].stop_at == "noise":
        return Knob("noise_theta", grown[0].noise_theta)
    if any(phase.role == "solve" for phase in phases[:-1]):
        return Knob("solve_share", solve_share, "logit")
    knob = METHODS.entry(last.method).knob if last.method in METHODS else SOLVERS.entry(last.method).knob
    given = None if knob is None else last.settings.get(knob.name)
    return knob if knob is None or given is None else replace(knob, centre=float(given))


def best_index(scores: Mapping[int, float]) -> int:
    """Return the grid index with the lowest score.

    Of equal scores the one nearest the default wins, so that a setting without effect ends the search; where all
    diverged, the lowest, so that the search goes downwards.
    """

    def order(index: int) -> tuple[float, int, int]:
        score = scores[index]
        return (score, abs(index), index) if math.isfinite(score) else (math.inf, index, 0)

    return min(scores, key=order)


def next_index(scores: Mapping[int, float], knob: Knob, limit: int) -> int | None:
    """Return the index to try beyond the best one; None when that lies inside, or `limit` extensions are made."""
    if len(scores) >= len(START) + limit:
        return None
    best = best_index(scores)
    beyond = {min(scores): min(scores) - 1, max(scores): max(scores) + 1}.get(best)
    if beyond is None or knob.value(beyond) in {knob.value(index) for index in scores}:
        return None
    return beyond
