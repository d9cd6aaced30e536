"""Which strategy to run: the cost of each to a wanted quality, from measured laws, this machine's speed and a pilot.

Quality is the relative excess of the full-set objective over the full minimum. Costs in epoch-equivalents come from the
laws of `laws.toml`, for L-BFGS from the pilot where it was finished; seconds and dependent calls follow from what one
call takes here. A law says what was seen on other data: predictions are ranges, and the document says what each rests
on.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from subsetopt.errors import SettingError
from subsetopt.objective.effective import samples_for_excess
from subsetopt.study.laws import Law, Range, cost_of, pilot_range, shipped_laws
from subsetopt.study.pilot import BATCH, STREAM_BATCH, Pilot, Speeds, measure_speeds, run_pilot
from subsetopt.training.config import RunConfig
from subsetopt.training.preparation import prepare
from subsetopt.training.workspace import Workspace

Kind = Literal["full batch", "mini-batch", "stream"]
SUBSET_LEVEL = 0.02
"""A subset that is to stand for the full set is solved to this excess over its own minimum."""


@dataclass(frozen=True)
class Strategy:
    """A way to train: the law that prices it, and its flags of `subsetopt train`; {epochs} is what it may spend."""

    name: str
    kind: Kind
    flags: str


STRATEGIES = (
    Strategy("sgd", "mini-batch", "--solver none --handoff sgd --handoff-epochs {epochs}"),
    Strategy("adam", "mini-batch", "--solver none --handoff adam --handoff-epochs {epochs}"),
    Strategy("kfac-stream", "stream", "--solver kfac-stream --handoff none --max-epochs {epochs}"),
    Strategy("grow", "full batch", "--grow 2 --start 0.01 --handoff none --max-epochs {epochs}"),
    Strategy("lbfgs@0.1+full", "full batch",
             "--subset-frac 0.1 --stop-at noise --handoff full --handoff-epochs {epochs}"),
    Strategy("lbfgs", "full batch", "--solver none --handoff full --handoff-solver lbfgs --handoff-epochs {epochs}"),
    Strategy("newton-cg", "full batch",
             "--solver none --handoff full --handoff-solver newton-cg --handoff-epochs {epochs}"),
)  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """What a strategy is predicted to cost; `units` None where it was not seen to reach the quality.

    `units` are epoch-equivalents, `calls` dependent model calls; `rests_on` names the measurements.
    """

    strategy: str
    command: str
    units: Range | None
    seconds: Range | None
    calls: Range | None
    rests_on: tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """What predictions need to know: N training samples, the L2 strength, the wanted relative `excess`, speeds, pilot,
    and the flags of `train` that name data and model.
    """

    samples: int
    l2: float
    excess: float
    speeds: Speeds
    pilot: Pilot | None
    flags: str


def make_plan(
    config: RunConfig,
    *,
    flags: Sequence[str] = (),
    excess: float | None = None,
    target_loss: float | None = None,
    pilot_seconds: float = 5.0,
    by: Literal["seconds", "units"] = "seconds",
    laws: Sequence[Law] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Return the document of `subsetopt plan --json`: speeds, pilot, predictions and the recommendation.

    `excess` (0.1 by default) or `target_loss`, a held-out loss without L2, is the wanted quality; `flags` are repeated
    in the printed commands; no pilot is run for `pilot_seconds` 0. Raises `UserError` in one line.
    """
    began = clock()
    _check(excess, target_loss, pilot_seconds)
    workspace = prepare(config)
    speeds = measure_speeds(workspace, clock)
    measured = workspace.ledger.by_purpose()
    pilot = run_pilot(workspace, pilot_seconds, clock) if pilot_seconds > 0 else None
    wanted = _wanted(excess, target_loss, pilot, workspace)
    problem = Problem(workspace.full_size, config.l2, wanted["excess"], speeds, pilot, shlex.join(flags))
    predictions = predict(problem, shipped_laws() if laws is None else laws)
    chosen = recommend(predictions, by)
    return {
        "dataset": workspace.dataset.name,
        "model": workspace.config.model,
        "samples": workspace.full_size,
        "parameters": workspace.flat.size,
        "l2": config.l2,
        "wanted": wanted,
        "speeds": asdict(speeds),
        "pilot": None if pilot is None else _pilot_document(pilot),
        "strategies": [_document(prediction) for prediction in predictions],
        "recommendation": None
        if chosen is None
        else {"strategy": chosen.strategy, "command": chosen.command, "by": by, "why": _why(chosen, predictions, by)},
        "notes": _notes(problem, workspace),
        "cost": {
            "epoch_equivalents": workspace.ledger.cost,
            "timing": measured,
            "seconds": clock() - began,
        },
    }


def predict(problem: Problem, laws: Sequence[Law]) -> list[Prediction]:
    """Return the predicted cost of every strategy, in the order of `STRATEGIES`, the subset's minimum alone last."""
    full, basis = lbfgs_units(problem, laws)
    found = []
    for strategy in STRATEGIES:
        if strategy.name == "lbfgs":
            units, rests_on = full, basis
        else:
            units, used = cost_of(laws, strategy.name, problem.excess, problem.samples, problem.l2)
            rests_on = tuple(law.source for law in used)
            if units is not None and used[0].unit == "share":
                units = None if full is None else Range(units.low * full.low, units.high * full.high)
                rests_on = (*rests_on, *basis)
        calls = units
        if units is not None and strategy.kind != "full batch":
            own = next((law.calls for law in laws if law.strategy == strategy.name and law.calls), None)
            calls = units.times(own or problem.samples / BATCH)
        elif strategy.name in ("grow", "lbfgs@0.1+full"):
            calls = full  # about as many evaluations, many of them on few samples
        found.append(_priced(strategy, units, calls, rests_on, problem))
    alone = _subset_alone(problem, laws)
    return [*found, alone] if alone is not None else found


def lbfgs_units(
    problem: Problem, laws: Sequence[Law], excess: float | None = None
) -> tuple[Range | None, tuple[str, ...]]:
    """Return the epoch-equivalents of L-BFGS on the full set: the pilot's evaluations, else the law's."""
    excess = problem.excess if excess is None else excess
    seen = None if problem.pilot is None else problem.pilot.evaluations(excess)
    if seen is not None and problem.pilot is not None:
        ratio, source = pilot_range()
        return ratio.times(seen), (f"the pilot's {seen} evaluations on {problem.pilot.samples} samples; {source}",)
    units, used = cost_of(laws, "lbfgs", excess, problem.samples, problem.l2)
    return units, tuple(law.source for law in used)


def recommend(predictions: Sequence[Prediction], by: Literal["seconds", "units"]) -> Prediction | None:
    """Return the cheapest strategy by the middle of its range; None where none is known to reach the quality."""
    known = [prediction for prediction in predictions if prediction.units is not None]
    return min(known, key=lambda prediction: _middle(prediction, by), default=None)


def _subset_alone(problem: Problem, laws: Sequence[Law]) -> Prediction | None:
    """Predict the cost of the smallest subset whose own minimum has the wanted excess; None without a pilot's word."""
    p = None if problem.pilot is None else problem.pilot.effective_parameters
    best = None if problem.pilot is None else problem.pilot.full_minimum
    if p is None or best is None:
        return None
    size = samples_for_excess(p, problem.excess * best, problem.samples)
    full, basis = lbfgs_units(problem, laws, SUBSET_LEVEL)
    units = None if full is None or size == problem.samples else full.times(size / problem.samples)
    strategy = Strategy(f"lbfgs on {size}", "full batch", f"--subset-size {size} --handoff none")
    rests_on = (f"{p:.3g} effective parameters, by the pilot's held-out loss", *basis)
    return _priced(strategy, units, full, rests_on, problem)


def _priced(
    strategy: Strategy, units: Range | None, calls: Range | None, rests_on: tuple[str, ...], problem: Problem
) -> Prediction:
    """Add seconds: those of the model calls, and what a solver adds to each of its dependent calls."""
    budget = "" if units is None else f"{math.ceil(10 * units.high) / 10:g}"
    words = f"subsetopt train {problem.flags} {strategy.flags.format(epochs=budget)}"
    prediction = Prediction(strategy.name, " ".join(words.split()), units, None, None, rests_on)
    if units is None or calls is None:
        return prediction
    speeds = problem.speeds
    seconds_per_unit = {
        "full batch": speeds.unit,
        "mini-batch": speeds.step * problem.samples / BATCH,
        "stream": speeds.small_gradient * problem.samples / min(STREAM_BATCH, problem.samples),
    }[strategy.kind]
    overhead = 0.0 if strategy.kind == "mini-batch" or problem.pilot is None else problem.pilot.overhead
    seconds = Range(*(seconds_per_unit * u + overhead * c for u, c in zip(units, calls, strict=True)))
    return replace(prediction, seconds=seconds, calls=calls)


def _wanted(
    excess: float | None, target_loss: float | None, pilot: Pilot | None, workspace: Workspace
) -> dict[str, Any]:
    """Return the wanted relative excess; a held-out loss is compared with that predicted at the full minimum."""
    total = workspace.full_size
    best = None if pilot is None else pilot.full_minimum
    if target_loss is None:
        return {"excess": 0.1 if excess is None else excess, "target_loss": None, "full_minimum": best}
    p = None if pilot is None else pilot.effective_parameters
    if pilot is None or p is None or best is None:
        raise SettingError(
            "target_loss", target_loss, "the pilot could not tell the full minimum's held-out loss", "use --excess"
        )
    # On fresh samples the full minimum's loss is as much above that on its own as theory says, p / N.
    held_out = best - pilot.penalty + p / total
    if target_loss <= held_out:
        raise SettingError(
            "target_loss", target_loss, f"the full minimum's is predicted to be {held_out:.3g}",
            "choose a higher one, another model, or another --l2",
        )  # fmt: skip
    relative = (target_loss - held_out) / best
    return {"excess": relative, "target_loss": target_loss, "full_minimum": best, "held_out_minimum": held_out}


def _middle(prediction: Prediction, by: Literal["seconds", "units"]) -> float:
    cost = prediction.seconds if by == "seconds" else prediction.units
    assert cost is not None, "only strategies that reach the quality are compared"
    return cost.middle


def _why(chosen: Prediction, predictions: Sequence[Prediction], by: Literal["seconds", "units"]) -> str:
    others = [p for p in predictions if p.units is not None and p is not chosen]
    if not others:
        return "the only strategy that was seen to reach this quality"
    second = min(others, key=lambda prediction: _middle(prediction, by))
    ratio = _middle(second, by) / _middle(chosen, by)
    cost, other = (chosen.seconds, second.seconds) if by == "seconds" else (chosen.units, second.units)
    assert cost is not None and other is not None, "both reach the quality"
    what = "seconds" if by == "seconds" else "epoch-equivalents"
    sure = "" if cost.high < other.low else "; their ranges overlap, so measure both where it matters"
    return f"fewest {what}: {second.strategy} is predicted to take {ratio:.2g} times as many{sure}"


def _notes(problem: Problem, workspace: Workspace) -> list[str]:
    notes = ["rates of sgd and adam are taken as tuned; the search for them is not counted"]
    if problem.pilot is not None and not problem.pilot.converged:
        notes.append("the pilot ran out of time: evaluations are those of the laws; allow more --pilot-seconds")
    if workspace.dataset.task != "classification":
        notes.append("the laws were measured on classification")
    return notes


def _pilot_document(pilot: Pilot) -> dict[str, Any]:
    kept: dict[str, Any] = {key: value for key, value in asdict(pilot).items() if key != "curve"}
    return {**kept, "evaluations": pilot.curve[-1][0], "effective_parameters": pilot.effective_parameters}


def _document(prediction: Prediction) -> Mapping[str, Any]:
    def shown(cost: Range | None) -> dict[str, float] | None:
        return None if cost is None else {"low": cost.low, "high": cost.high}

    return {
        "strategy": prediction.strategy,
        "command": prediction.command,
        "epoch_equivalents": shown(prediction.units),
        "seconds": shown(prediction.seconds),
        "calls": shown(prediction.calls),
        "rests_on": list(prediction.rests_on),
    }


def _check(excess: float | None, target_loss: float | None, pilot_seconds: float) -> None:
    if excess is not None and target_loss is not None:
        raise SettingError("target_loss", target_loss, "--excess is given, too", "give one of them")
    if excess is not None and not 0 < excess < math.inf:
        raise SettingError("excess", excess, "must be above 0", "try 0.1, 10 % above the full minimum")
    if target_loss is not None and not 0 < target_loss < math.inf:
        raise SettingError("target_loss", target_loss, "must be above 0", "try 0.2")
    if not 0 <= pilot_seconds < math.inf:
        raise SettingError("pilot_seconds", pilot_seconds, "must not be negative", "try 5, or 0 for no pilot")
