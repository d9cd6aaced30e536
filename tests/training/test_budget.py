"""The clock against a hand-wound one, and held-out tracking that leaves a run as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from subsetopt.training.budget import Clock
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
