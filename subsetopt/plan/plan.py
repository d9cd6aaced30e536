"""Which strategy to run: the cost of each to a wanted quality, from measured laws, this machine's speed and a pilot.

Quality is the relative excess of the full-set objective over the full minimum.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Literal

from subsetopt.documents.plan import (
    PilotEntry,
    PlanCost,
    PlanDocument,
    RangeEntry,
    RecommendationEntry,
    SpeedsEntry,
    StrategyEntry,
    WantedEntry,
)
from subsetopt.documents.run import purposes
from subsetopt.errors import SettingError, setting
from subsetopt.plan.evidence import limits_of, unsuited
from subsetopt.plan.laws import Law, Range, shipped_laws
from subsetopt.plan.pilot import Pilot, measure_speeds, run_pilot
from subsetopt.plan.predictions import PlannedRun, Prediction, middle_of, predict, recommend, strategies
from subsetopt.plan.runnable import refusals
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import RunConfig
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData

SCATTER = 1.5  # the highest cost of three seeds over the lowest, in most rows of reports/strategies/plan-laws.md


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
) -> PlanDocument:
    """Return the document of `subsetopt plan --json`: speeds, pilot, predictions and the recommendation.

    `excess` (0.1 by default) or `target_loss`, a held-out loss without L2, is the wanted quality; `flags` are repeated
    in the printed commands; no pilot is run for `pilot_seconds` 0. Raises `UserError` in one line.
    """
    began = clock()
    _check(excess, target_loss, pilot_seconds)
    l2 = config.one_strength
    prepared = prepare(config)
    data, budget, run = prepared
    if target_loss is not None and not data.samples(SplitName.VALIDATION):
        remedy = f"use {setting('excess')}, or set {setting('validation_fraction')} above 0"
        raise SettingError("target_loss", target_loss, "needs held-out data, and there are none", remedy)
    speeds = measure_speeds(prepared, clock)
    measured = purposes(budget.ledger.by_purpose())
    pilot = run_pilot(prepared, pilot_seconds, clock) if pilot_seconds > 0 else None
    wanted = _wanted(excess, target_loss, pilot, data)
    least = data.dataset.n_outputs if data.dataset.task == "classification" else 1
    refused = refusals(config, prepared, strategies())
    problem = PlannedRun(data.full_size, l2, wanted.excess, speeds, pilot, shlex.join(flags), least, refused)
    laws = shipped_laws() if laws is None else laws
    against = unsuited(data)
    predictions = predict(problem, laws)
    chosen = recommend(predictions, by, against)
    return PlanDocument(
        dataset=data.dataset.name,
        model=run.config.model,
        samples=data.full_size,
        parameters=run.model.flat.size,
        l2=l2,
        wanted=wanted,
        speeds=SpeedsEntry(**asdict(speeds)),
        pilot=None if pilot is None else _pilot(pilot),
        strategies=[_strategy(prediction) for prediction in predictions],
        recommendation=None
        if chosen is None
        else RecommendationEntry(
            strategy=chosen.strategy, command=chosen.command, by=by, why=_why(chosen, predictions, by)
        ),
        notes=[*_notes(problem, data.dataset.task), *_against(problem, predictions, chosen, laws, against)],
        cost=PlanCost(epoch_equivalents=budget.ledger.cost, timing=measured, seconds=clock() - began),
    )


def _wanted(excess: float | None, target_loss: float | None, pilot: Pilot | None, data: TrainingData) -> WantedEntry:
    """Return the wanted relative excess; a held-out loss is compared with that predicted at the full minimum."""
    total = data.full_size
    best = None if pilot is None else pilot.full_minimum
    if target_loss is None:
        return WantedEntry(excess=0.1 if excess is None else excess, target_loss=None, full_minimum=best)
    p = None if pilot is None else pilot.effective_parameters
    if pilot is None or p is None or best is None:
        raise SettingError(
            "target_loss",
            target_loss,
            "the pilot could not tell the full minimum's held-out loss",
            f"use {setting('excess')}",
        )
    # On fresh samples the full minimum's loss is as much above that on its own as theory says, p / N.
    unit = data.loss_unit
    held_out = unit * (best - pilot.penalty + p / total)
    if target_loss <= held_out:
        raise SettingError(
            "target_loss",
            target_loss,
            f"the full minimum's is predicted to be {held_out:.3g}",
            f"choose a higher one, another model, or another {setting('l2')}",
        )
    relative = (target_loss - held_out) / (unit * best)
    return WantedEntry(excess=relative, target_loss=target_loss, full_minimum=best, held_out_minimum=held_out)


def _why(chosen: Prediction, predictions: Sequence[Prediction], by: Literal["seconds", "units"]) -> str:
    others = [p for p in predictions if p.units is not None and p is not chosen]
    if not others:
        return "the only strategy that was seen to reach this quality"
    second = min(others, key=lambda prediction: middle_of(prediction, by))
    ratio = middle_of(second, by) / middle_of(chosen, by)
    cost, other = (chosen.seconds, second.seconds) if by == "seconds" else (chosen.units, second.units)
    assert cost is not None and other is not None, "both reach the quality"
    what = "seconds" if by == "seconds" else "epoch-equivalents"
    if abs(ratio - 1) < 0.05:
        return f"fewest {what}, but {second.strategy} is predicted to take as many: measure both where it matters"
    sure = "" if cost.high < other.low else "; their ranges overlap, so measure both where it matters"
    if not sure and ratio < SCATTER:  # a law of one seed has no range
        sure = "; seeds scatter as much, so measure both where it matters"
    return f"fewest {what}: {second.strategy} is predicted to take {ratio:.2g} times as many{sure}"


def _notes(problem: PlannedRun, task: str) -> list[str]:
    notes = [
        "rates of sgd and adam are taken as tuned; the search for them is not counted",
        "costs are those to a low training objective; by test loss at equal cost tuned SGD or Adam was level or ahead "
        "after 3 epochs on digits (reports/compare-digits), after 20 on MNIST and letter "
        "(reports/strategies/residual.md)",
    ]
    if problem.pilot is not None and not problem.pilot.converged:
        notes.append(
            f"the pilot ran out of time: evaluations are those of the laws; allow more {setting('pilot_seconds')}"
        )
    notes += [f"{name} is left out: {reason}" for name, reason in problem.refused.items()]
    if task != "classification":
        notes.append("the laws were measured on classification")
    return notes


def _against(
    problem: PlannedRun,
    predictions: Sequence[Prediction],
    chosen: Prediction | None,
    laws: Sequence[Law],
    against: Mapping[str, str],
) -> list[str]:
    """Return which strategies are known but not recommended, and where the recommended one was not measured."""
    known = {prediction.strategy for prediction in predictions if prediction.units is not None}
    notes = [f"{name} is not recommended: {why}" for name, why in against.items() if name in known]
    if chosen is None:
        return notes
    return notes + limits_of(laws, chosen.strategy, problem.samples, problem.l2)


def _pilot(pilot: Pilot) -> PilotEntry:
    figures = {key: value for key, value in asdict(pilot).items() if key != "curve"}
    return PilotEntry(**figures, evaluations=pilot.curve[-1][0], effective_parameters=pilot.effective_parameters)


def _strategy(prediction: Prediction) -> StrategyEntry:
    def shown(cost: Range | None) -> RangeEntry | None:
        return None if cost is None else RangeEntry(low=cost.low, high=cost.high)

    return StrategyEntry(
        strategy=prediction.strategy,
        command=prediction.command,
        epoch_equivalents=shown(prediction.units),
        seconds=shown(prediction.seconds),
        calls=shown(prediction.calls),
        rests_on=list(prediction.rests_on),
        refused=prediction.refused,
    )


def _check(excess: float | None, target_loss: float | None, pilot_seconds: float) -> None:
    if excess is not None and target_loss is not None:
        raise SettingError("target_loss", target_loss, f"{setting('excess')} is given, too", "give one of them")
    if excess is not None and not 0 < excess < math.inf:
        raise SettingError("excess", excess, "must be a finite number above 0", "try 0.1, 10 % above the full minimum")
    if target_loss is not None and not 0 < target_loss < math.inf:
        raise SettingError("target_loss", target_loss, "must be a finite number above 0", "try 0.2")
    if not 0 <= pilot_seconds < math.inf:
        raise SettingError("pilot_seconds", pilot_seconds, "must be a finite number from 0", "try 5, or 0 for no pilot")
    if target_loss is not None and pilot_seconds == 0:
        problem = "no pilot is run, which predicts the held-out loss"
        raise SettingError(
            "target_loss", target_loss, problem, f"use {setting('excess')}, or {setting('pilot_seconds', 5)}"
        )
