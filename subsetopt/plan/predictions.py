"""What each strategy is predicted to cost to a wanted quality: laws, times the speed of this machine.

Costs in epoch-equivalents come from the laws of `laws.toml`, for L-BFGS from the pilot where it was finished; seconds
and the sequential model calls follow from what one call takes here. A law says what was seen on other data:
predictions are ranges, and each says what it rests on.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from subsetopt.analysis.excess import samples_for_excess
from subsetopt.facts import PlannedStrategy
from subsetopt.plan.laws import Law, Range, cost_of, pilot_range
from subsetopt.plan.pilot import BATCH, STREAM_BATCH, Pilot, Speeds
from subsetopt.solvers import SOLVERS
from subsetopt.training.phases.drawn.checks import FEWEST_SAMPLES
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS
from subsetopt.training.phases.methods import METHODS

SUBSET_LEVEL = 0.02
"""A subset that is to stand for the full set is solved to this excess over its own minimum."""


SUBSETS = (
    PlannedStrategy("grow", "full batch", "--grow 2 --grow-start 0.01 --handoff none", ("--max-epochs",)),
    PlannedStrategy(
        "lbfgs@0.1+full",
        "full batch",
        "--subset-frac 0.1 --stop-at noise --handoff full",
        ("--handoff-epochs", "--max-epochs"),
    ),
    PlannedStrategy(
        "lbfgs@residual",
        "full batch",
        "--subset-draw residual --handoff none --max-iterations none",
        ("--max-epochs",),
        fewest=FEWEST_SAMPLES,
    ),
)
"""Ways to train with a solver on subsets; all others are registered with their optimizer, strategy or solver."""
DRAWN_CALLS = 3.0  # dependent model calls per epoch-equivalent of rounds: 13 for one of all samples and 12 on a quarter
FIRST_STEP = 2.0  # epoch-equivalents that a solver takes at least on the full set: two evaluations


@dataclass(frozen=True)
class Prediction:
    """What a strategy is predicted to cost; `units` None where it was not seen to reach the quality.

    `units` are epoch-equivalents, `calls` sequential model calls; `rests_on` names the measurements. `refused` says why
    it is left out for these data or this model.
    """

    strategy: str
    command: str
    units: Range | None
    seconds: Range | None
    calls: Range | None
    rests_on: tuple[str, ...]
    refused: str | None = None


@dataclass(frozen=True)
class PlannedRun:
    """What predictions need to know: N training samples, the L2 strength, the wanted relative `excess`, speeds, pilot,
    the flags of `train` that name data and model, the `least` samples of a subset, and why strategies are `refused`.
    """

    samples: int
    l2: float
    excess: float
    speeds: Speeds
    pilot: Pilot | None
    flags: str
    least: int = 1
    refused: Mapping[str, str] = field(default_factory=dict)


def strategies() -> tuple[PlannedStrategy, ...]:
    """Return all ways to train that are priced: of optimizers, of strategies, on subsets, of solvers."""
    mini_batch = [way for entry in OPTIMIZERS for way in entry.plan]
    streams = [way for entry in METHODS for way in entry.plan]
    return (*mini_batch, *streams, *SUBSETS, *(way for entry in SOLVERS for way in entry.plan))


def predict(problem: PlannedRun, laws: Sequence[Law]) -> list[Prediction]:
    """Return the predicted cost of every strategy, in the order of `strategies`, the subset's minimum alone last."""
    full, basis = lbfgs_units(problem, laws)
    found = []
    for strategy in strategies():
        if strategy.name in problem.refused:
            refused = Prediction(strategy.name, "", None, None, None, (), problem.refused[strategy.name])
            found.append(refused)
            continue
        if strategy.name == "lbfgs":
            units, rests_on = full, basis
        else:
            units, used = cost_of(laws, strategy.name, problem.excess, problem.samples, problem.l2)
            rests_on = tuple(law.source for law in used)
            if units is not None and used[0].unit == "share":
                units = None if full is None else Range(units.low * full.low, units.high * full.high)
                rests_on = tuple(dict.fromkeys((*rests_on, *basis)))
        if units is not None and strategy.stream_units:  # a share of little may be less than the stream itself takes
            least = strategy.stream_units + FIRST_STEP
            units = Range(max(units.low, least), max(units.high, least))
        calls = units
        if units is not None and strategy.kind != "full batch":
            calls = units.times(_calls_per_unit(strategy.name, laws, problem.samples) or problem.samples / BATCH)
        elif units is not None and strategy.stream_units:
            extra = strategy.stream_units * (
                _calls_per_unit(strategy.stream, laws, problem.samples) or problem.samples / STREAM_BATCH
            )
            calls = Range(units.low + extra, units.high + extra)
        elif strategy.name in ("grow", "lbfgs@0.1+full"):
            calls = full  # about as many evaluations, many of them on few samples
        elif units is not None and strategy.name == "lbfgs@residual":
            calls = units.times(DRAWN_CALLS)
        found.append(_priced(strategy, units, calls, rests_on, problem))
    alone = _subset_alone(problem, laws)
    return [*found, alone] if alone is not None else found


def _calls_per_unit(strategy: str, laws: Sequence[Law], samples: int) -> float | None:
    """Return the calls of the law of the nearest size: larger sets have more subsets."""
    counted = [law for law in laws if law.strategy == strategy and law.calls]
    nearest = min(counted, key=lambda law: abs(math.log(samples / law.samples)), default=None)
    return None if nearest is None else nearest.calls


def lbfgs_units(
    problem: PlannedRun, laws: Sequence[Law], excess: float | None = None
) -> tuple[Range | None, tuple[str, ...]]:
    """Return the epoch-equivalents of L-BFGS on the full set: the pilot's evaluations, else the law's."""
    excess = problem.excess if excess is None else excess
    seen = None if problem.pilot is None else problem.pilot.evaluations(excess)
    if seen is not None and problem.pilot is not None:
        ratio, source = pilot_range(excess)
        return ratio.times(seen), (f"the pilot's {seen} evaluations on {problem.pilot.samples} samples; {source}",)
    units, used = cost_of(laws, "lbfgs", excess, problem.samples, problem.l2)
    return units, tuple(law.source for law in used)


def recommend(
    predictions: Sequence[Prediction], by: Literal["seconds", "units"], unsuited: Container[str] = ()
) -> Prediction | None:
    """Return the cheapest strategy by the middle of its range; None where none is known to reach the quality.

    One of the `unsuited` only where there is no other.
    """
    known = [prediction for prediction in predictions if prediction.units is not None]
    known = [prediction for prediction in known if prediction.strategy not in unsuited] or known
    return min(known, key=lambda prediction: middle_of(prediction, by), default=None)


def _subset_alone(problem: PlannedRun, laws: Sequence[Law]) -> Prediction | None:
    """Predict the cost of the smallest subset whose own minimum has the wanted excess; None without a pilot's word."""
    p = None if problem.pilot is None else problem.pilot.effective_parameters
    best = None if problem.pilot is None else problem.pilot.full_minimum
    if p is None or best is None:
        return None
    size = min(max(samples_for_excess(p, problem.excess * best, problem.samples), problem.least), problem.samples)
    full, basis = lbfgs_units(problem, laws, SUBSET_LEVEL)
    units = None if full is None or size == problem.samples else full.times(size / problem.samples)
    strategy = PlannedStrategy(
        f"lbfgs on {size}", "full batch", f"--subset-size {size} --handoff none", ("--solver-epochs",)
    )
    rests_on = (f"{p:.3g} effective parameters, by the pilot's held-out loss", *basis)
    return _priced(strategy, units, full, rests_on, problem)


def _priced(
    strategy: PlannedStrategy, units: Range | None, calls: Range | None, rests_on: tuple[str, ...], problem: PlannedRun
) -> Prediction:
    """Add seconds: those of the model calls, and what a solver adds to each of its sequential calls."""
    words = ["subsetopt train", problem.flags, strategy.flags]
    if units is not None:
        words += [f"{limit} {math.ceil(10 * units.high) / 10:g}" for limit in strategy.limits]
    prediction = Prediction(strategy.name, " ".join(filter(None, words)), units, None, None, rests_on)
    if units is None or calls is None:
        return prediction
    speeds = problem.speeds
    seconds_per_unit = {
        "full batch": speeds.unit,
        "mini-batch": speeds.step * problem.samples / BATCH,
        "stream": speeds.small_gradient * problem.samples / min(STREAM_BATCH, problem.samples),
    }
    per_unit = seconds_per_unit[strategy.kind]
    extra = strategy.stream_units * (seconds_per_unit["stream"] - per_unit)
    overhead = 0.0 if strategy.kind == "mini-batch" or problem.pilot is None else problem.pilot.overhead
    seconds = Range(*(per_unit * u + extra + overhead * c for u, c in zip(units, calls, strict=True)))
    return replace(prediction, seconds=seconds, calls=calls)


def middle_of(prediction: Prediction, by: Literal["seconds", "units"]) -> float:
    """Return the middle of a strategy's cost, which must be known to reach the quality."""
    cost = prediction.seconds if by == "seconds" else prediction.units
    assert cost is not None, "only strategies that reach the quality are compared"
    return cost.middle
