"""The clock against a hand-wound one, and held-out tracking that leaves a run as it was."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.saving import join, split
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.budget import Budget, Clock, PhaseBudget
from subsetopt.training.ledger import Ledger
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config


def test_a_clock_leaves_out_what_is_stopped_and_goes_on_after_an_interruption() -> None:
    time = [100.0]
    clock = Clock(10.0, now=lambda: time[0])
    clock.start(2.0)
    time[0] += 3.0
    with clock.stopped():
        time[0] += 50.0
    assert clock.seconds == 5.0 and not clock.over
    clock.open_phase(5.0, 1.0)
    time[0] += 1.0
    assert clock.over
    clock.open_phase(6.0, None)
    assert not clock.over and clock.limit == 10.0


def test_a_phase_has_spent_the_larger_share_of_cost_and_seconds() -> None:
    time = [0.0]
    ledger, clock = Ledger(10, {"gradient": 1.0}, budget=5.0), Clock(now=lambda: time[0])
    ledger.open_phase(4.0)
    clock.open_phase(0.0, 20.0)
    budget = Budget(ledger, clock).for_phase(reserve=1.0)
    assert (budget.affordable, budget.affordable_seconds, budget.end) == (3.0, 20.0, StopReason.SCHEDULE_END)
    enough = budget.part(2)
    ledger.charge("gradient", 10, "train")
    assert budget.share_spent == pytest.approx(1 / 3) and not enough()
    time[0] += 10.0
    assert budget.share_spent == 0.5 and enough()
    ledger.charge("gradient", 20, "train")
    assert budget.share_spent == 1.0
    with pytest.raises(BudgetExhausted):
        ledger.charge("gradient", 1, "train")


def test_a_budget_comes_back_from_json_and_asks_the_ledger_and_clock_of_the_resumed_run() -> None:
    ledger, clock = Ledger(10, {"gradient": 1.0}, budget=3.0), Clock()
    budget = Budget(ledger, clock).for_phase()
    ledger.charge("gradient", 10, "train")
    tensors, numbers = split(budget)
    again = Ledger(10, {"gradient": 1.0}, budget=3.0)
    again.restore(ledger.save())
    back = join(PhaseBudget, tensors, json.loads(json.dumps(numbers)), ledger=again, clock=clock)
    assert back.end is StopReason.BUDGET and math.isinf(back.affordable_seconds) and back.ledger is again
    assert back.share_spent == budget.share_spent == pytest.approx(1 / 3)


def test_a_phase_that_seconds_alone_end_foresees_its_cost() -> None:
    time = [0.0]
    ledger, clock = Ledger(10, {"gradient": 1.0}), Clock(8.0, now=lambda: time[0])
    budget = Budget(ledger, clock).for_phase()
    ledger.charge("gradient", 10, "train")
    time[0] = 2.0
    assert budget.share_spent == 0.25 and budget.total(budget.share_spent) == 4.0


def test_a_clock_without_a_budget_is_never_over() -> None:
    assert not Clock().over


BATCH_NORM = {"model": "mlp", "model_args": {"batch_norm": True}, "handoff": "none", "max_epochs": 2.0}


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "linear", "handoff": "adam", "max_epochs": 2.0, "handoff_epochs": 1.0},
        {**BATCH_NORM, "solver": "lbfgs"},
        {**BATCH_NORM, "solver": "kfac-stream"},
    ],
)
def test_tracking_held_out_loss_changes_neither_parameters_nor_cost(settings: dict[str, Any], tmp_path: Path) -> None:
    plain = train(make_config(settings, {"output": tmp_path / "plain"}))
    tracked = train(make_config(settings, {"output": tmp_path / "tracked", "track_validation": 0.25}))
    for a, b in zip(plain.model.parameters(), tracked.model.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(plain.model.buffers(), tracked.model.buffers(), strict=True):
        assert torch.equal(a, b)
    assert plain.result["cost"]["epoch_equivalents"] == tracked.result["cost"]["epoch_equivalents"]
    records = [json.loads(line) for line in (tmp_path / "tracked" / "metrics.jsonl").read_text().splitlines()]
    looks = [int(record["epoch_equivalents"] / 0.25) for record in records if "validation" in record]
    assert len(looks) >= 5 and looks == sorted(set(looks)), "at most one look per interval"


def test_a_wall_clock_budget_ends_the_run_and_its_schedule() -> None:
    settings = {"model": "linear", "solver": "none", "handoff": "sgd", "handoff_epochs": 1e6, "max_seconds": 0.5}
    result = train(make_config(settings), keep=False).result
    assert result["phases"][0]["stop_reason"] == "budget"
    assert 0.4 < result["cost"]["seconds"] < 2.0
