"""What a study tunes of each method, and the search for its values.

Every method gets the same number of trials: a grid of three values per setting, then one more at a time, beyond the
best one while it lies at an end of what was tried, else halfway to its neighbours. First-order training tunes its
learning rate. A method without one tunes what matters most to it: the share of the budget for its subset solve, the
noise at which subsets grow, or what the registration of a solver or strategy names, e.g. L-BFGS's memory or the
tightness of CG's line search. A study may search the strength of the regularisation beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product

from subsetopt.errors import SettingError, setting
from subsetopt.facts import Knob
from subsetopt.solvers import SOLVERS
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS
from subsetopt.training.phases.first_order.setup import learning_rate
from subsetopt.training.phases.methods import METHODS
from subsetopt.training.settings.phase import PhaseConfig

START = (-1.0, 0.0, 1.0)
DECAY_FACTOR = 10.0
"""Between neighbours of the grid of L2 strengths and weight decays, which matter less than learning rates."""
Index = tuple[float, ...]
"""A point of a grid, one coordinate per knob; (0, 0) has the default of both."""


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
    if last.draw == "residual":
        return Knob("draw_share", last.draw_share or 0.25, "logit")
    knob = METHODS.entry(last.method).knob if last.method in METHODS else SOLVERS.entry(last.method).knob
    given = None if knob is None else last.settings.get(knob.name)
    return knob if knob is None or given is None else replace(knob, centre=float(given))


def decay_knob(last: PhaseConfig, l2: float, method: str) -> Knob:
    """Return the regularisation that `method` tunes: a weight decay of its last phase's own, else the L2 strength.

    Raises `SettingError` where it is zero, which has no neighbours to search.
    """
    own = last.weight_decay
    if last.first_order and own is None:
        own = OPTIMIZERS.get(last.method).decoupled_decay
    name, centre = ("l2", l2) if own is None or not last.first_order else ("weight_decay", own)
    if centre == 0:
        shown = name if name == "l2" else "handoff_weight_decay"
        problem = f"leaves {method!r} nothing to search by {setting('tune', 'rate,l2')}"
        raise SettingError(shown, centre, problem, f"set it above 0, or use {setting('tune', 'rate')}")
    return Knob(name, centre, factor=DECAY_FACTOR)


def start_grid(axes: int) -> list[Index]:
    """Return the first trials: three values of each knob, in all combinations."""
    return list(product(START, repeat=axes))


def best_index(scores: Mapping[Index, float]) -> Index:
    """Return the grid index with the lowest score.

    Of equal scores the one nearest the middle of what was tried wins, so that a setting without effect keeps its
    default; where all diverged, the lowest, so that the search goes downwards.
    """
    middle = [(min(values) + max(values)) / 2 for values in zip(*scores, strict=True)]

    def order(index: Index) -> tuple[float, float, Index]:
        score = scores[index]
        if not math.isfinite(score):
            return math.inf, index[0], index
        return score, sum(abs(at - centre) for at, centre in zip(index, middle, strict=True)), index

    return min(scores, key=order)


def next_index(scores: Mapping[Index, float], knobs: tuple[Knob, ...], trials: int) -> Index | None:
    """Return the index to try next; None when `trials` are made, or every neighbour has a value that was tried."""
    tried = {values_at(knobs, index) for index in scores}
    if len(tried) >= trials:
        return None
    return next((index for index in _neighbours(scores) if values_at(knobs, index) not in tried), None)


def values_at(knobs: tuple[Knob, ...], index: Index) -> tuple[float, ...]:
    """Return the value of each knob at a grid index."""
    return tuple(knob.value(at) for knob, at in zip(knobs, index, strict=True))


def is_inside(scores: Mapping[Index, float]) -> bool:
    """Tell whether the best index has a worse one on either side of it along each knob."""
    best = best_index(scores)
    lines = (_line(scores, best, axis) for axis in range(len(best)))
    return all(line[0] < best[axis] < line[-1] for axis, line in enumerate(lines))


def _neighbours(scores: Mapping[Index, float]) -> Iterator[Index]:
    """Yield what may be tried next: past the best where it lies at an end, then closer to it, then past all others."""
    best = best_index(scores)
    lines = [_line(scores, best, axis) for axis in range(len(best))]
    for axis, line in enumerate(lines):
        if line[-1] == best[axis] and math.isfinite(scores[best]):
            yield _moved(best, axis, best[axis] + 1)
        if line[0] == best[axis]:
            yield _moved(best, axis, best[axis] - 1)
    for axis, line in enumerate(lines):
        at = line.index(best[axis])
        beside = [other for other in line[max(0, at - 1) : at + 2] if other != best[axis]]
        for other in sorted(beside, key=lambda other: (-abs(other - best[axis]), scores[_moved(best, axis, other)])):
            yield _moved(best, axis, (best[axis] + other) / 2)
    for step in range(1, len(scores) + 1):  # whole numbers may leave nothing new in between
        for axis, line in enumerate(lines):
            yield from (_moved(best, axis, line[-1] + step), _moved(best, axis, line[0] - step))


def _line(scores: Mapping[Index, float], best: Index, axis: int) -> list[float]:
    """Return the coordinates tried on the line through `best` along one knob, in order."""
    return sorted(index[axis] for index in scores if _moved(index, axis, best[axis]) == best)


def _moved(index: Index, axis: int, to: float) -> Index:
    return (*index[:axis], to, *index[axis + 1 :])
