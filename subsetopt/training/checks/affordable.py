"""Whether every phase of a plan can take its first step within its budget; refused before any work where it cannot.

Costs are lower bounds, in epoch-equivalents: what a method's own arithmetic takes, and what a solver spends after its
first evaluations, is known only when it is done. A run in which no phase has taken a step is refused at its end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from subsetopt.errors import SettingError
from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.training.budget import Budget
from subsetopt.training.phases.protocol import Phase
from subsetopt.training.settings.names import setting_name
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.settings.run import RunConfig

SLACK = 1e-9
MARGIN = 3.0  # what is recommended, in first steps: two for what their lower bounds leave out
_ROLES = {"warmup": "the warm-up", "grow": "a growing stage", "solve": "the solve", "handoff": "the hand-off"}


def check_budgets(budget: Budget, config: RunConfig, phases: Sequence[Phase]) -> None:
    """Raise `SettingError` where a phase could not take a single step, naming the setting and the least that it takes.

    Phases of a first-order method or a stream spend all that they are given, others at least their first evaluation.
    What is left of the run's budget after a solve, or of a stage's after smaller ones, is not certain before the run:
    there the result says which phases took no step.
    """
    total, spent = budget.ledger.budget, budget.ledger.cost
    given = spent  # what the phases before may take, of which they take at least `spent`
    started, growing = False, False
    for phase in phases:
        planned, least = phase.config, phase.least_cost
        own = math.inf if planned.epochs is None else planned.epochs
        left = min(total, own if planned.cumulative else math.inf) - spent
        allowed = min(left, math.inf if planned.cumulative else own)
        if least > allowed * (1 + SLACK):
            if own <= left and not planned.cumulative and not growing:
                raise _too_little(config, planned, least)
            if own > left and not started:
                raise _used_up(config, planned, least, given)
        certain = _certain(budget, config, phase, max(allowed, 0.0))
        spent, given = spent + certain, given + (allowed if planned.first_order and certain else certain)
        started = started or planned.role != "warmup"
        growing = growing or planned.role == "grow"


def _certain(budget: Budget, run: RunConfig, phase: Phase, allowed: float) -> float:
    """Return what `phase` spends at least."""
    config = phase.config
    if math.isinf(allowed) or config.seconds is not None or run.max_seconds is not None:
        return 0.0
    if (config.first_order or config.streaming) and config.stop_at == "minimum":
        return max(0.0, allowed - phase.least_cost)  # it ends where the next step does not fit
    return 0.0 if config.first_order else budget.ledger.price("gradient", phase.samples)


def _too_little(run: RunConfig, config: PhaseConfig, least: float) -> SettingError:
    return SettingError(
        setting_name(run, config, "epochs"),
        config.epochs,
        f"{_ROLES[config.role]} by {_method(config)} would train nothing: its first step costs {least:.3g} "
        "epoch-equivalents",
        f"use {_up(MARGIN * least)} or more",
    )


def _used_up(run: RunConfig, config: PhaseConfig, least: float, given: float) -> SettingError:
    before = f", and what comes before it takes {given:.3g}" if given > SLACK else ""
    return SettingError(
        "max_epochs",
        run.max_epochs,
        f"{_ROLES[config.role]} by {_method(config)} would train nothing: its first step costs {least:.3g} "
        f"epoch-equivalents{before}",
        f"use {_up(MARGIN * least + given)} or more",
    )


@contextmanager
def within_budget(run: RunConfig) -> Iterator[None]:
    """Raise `SettingError` where the budget of the run does not even admit what is evaluated before its first phase."""
    try:
        yield
    except BudgetExhausted:
        raise SettingError(
            "max_epochs",
            run.max_epochs,
            "nothing would be trained: checking model and data on a few samples costs more",
            "use 1 or more",
        ) from None


def check_trained(config: RunConfig, records: Sequence[Mapping[str, Any]]) -> None:
    """Raise `SettingError` after a run in which no phase has taken a step, and none was at its minimum."""
    if not all(map(untrained, records)):
        return
    phase = config.phases()[0]
    value: float | None
    timed = config.max_seconds if phase.seconds is None else phase.seconds
    if timed is not None:
        name, value = "max_seconds" if phase.seconds is None else setting_name(config, phase, "seconds"), timed
    elif phase.epochs is None or (config.max_epochs or math.inf) <= phase.epochs:
        name, value = "max_epochs", config.max_epochs
    else:
        name, value = setting_name(config, phase, "epochs"), phase.epochs
    what = f"{_ROLES[phase.role]} by {_method(phase)} could take no step"
    remedy = "use more" if value is None or timed is not None else f"use {_up(2 * value)} or more"
    raise SettingError(name, value, f"nothing was trained: {what} within it", remedy)


def stepless(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each finished phase that its budget did not admit a step of."""
    return [
        f"{_ROLES.get(record['role'], record['role'])} by {record['method']} took no step: its budget was spent on "
        "what comes before the first one; allow more epoch-equivalents"
        for record in records
        if untrained(record)
    ]


def no_better(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for each finished phase of mini-batches whose mean loss at the end is not below its first."""
    found = [record for record in records if record.get("loss_first") is not None]
    return [
        f"{_ROLES.get(record['role'], record['role'])} by {record['method']} ended no better than it began: its "
        f"mini-batch loss was {record['loss_first']:.4g} at first and {record['loss_last']:.4g} in the mean at the "
        "end; lower its rate, or leave it out"
        for record in found
        if not record["loss_last"] < record["loss_first"]
    ]


def untrained(record: Mapping[str, Any]) -> bool:
    """Return whether a finished phase took no step although it was not at its minimum."""
    return record["iterations"] == 0 and record["stop_reason"] in ("budget", "schedule_end")


def _method(config: PhaseConfig) -> str:
    return config.method if config.sampler == "full" else f"{config.method} with {config.sampler}"


def _up(cost: float) -> str:
    """Return `cost` rounded up to two digits, so that what the message asks for is enough."""
    digits = 1 - math.floor(math.log10(cost))
    return f"{math.ceil(cost * 10**digits * (1 - SLACK)) / 10**digits:g}"
