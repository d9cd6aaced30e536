"""Phases of mini-batches that end no better than they began say so: on labels of chance, and not on others."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import nn

from subsetopt.data import dataset_from_arrays
from subsetopt.report.summary import summary
from subsetopt.seeding import make_generator
from subsetopt.training.phases.loss_trend import FEWEST, LossTrend, upgraded_trend
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config


def zeros() -> nn.Module:
    model = nn.Linear(6, 3)
    nn.init.zeros_(model.weight), nn.init.zeros_(model.bias)
    return model


def run(learnable: bool, directory: Any, **settings: Any) -> dict[str, Any]:
    """One pass over fresh samples from the best constant prediction: with nothing to learn it can only get worse."""
    generator = make_generator(0, "rows")
    x = torch.randn(3000, 6, generator=generator)
    noise = torch.randn(3000, 3, generator=generator)
    y = (noise + (3 * x[:, :3] if learnable else 0)).argmax(1)
    config = make_config({"output": str(directory), "max_epochs": 0.9, **settings})
    return train(config, model=zeros(), dataset=dataset_from_arrays(x, y), splits=("train",), figure=False).result


STREAM = {"solver": "kfac-stream", "handoff": "none", "solver_epochs": 0.9}
SGD = {"solver": "none", "handoff": "sgd", "handoff_lr": 1.0, "handoff_epochs": 0.9, "handoff_schedule": "constant"}


@pytest.mark.parametrize(("settings", "who"), [(STREAM, "the solve by kfac-stream"), (SGD, "the hand-off by sgd")])
@pytest.mark.parametrize("learnable", [False, True])
def test_log_result_and_report_have_a_line(settings, who, learnable, tmp_path):
    result = run(learnable, tmp_path / "run", **settings)
    said = [text for text in result["warnings"] if "ended no better than it began" in text]
    assert bool(said) != learnable
    log = (tmp_path / "run" / "log.txt").read_text()
    report = " ".join(summary(result, tmp_path / "run").split())
    if learnable:
        assert "no better" not in log and "no better" not in report
        return
    (line,) = said
    assert line.startswith(f"{who} ended no better") and line.endswith("lower its rate, or leave it out")
    assert line in log and line in report
    phase = json.loads((tmp_path / "run" / "result.json").read_text())["phases"][-1]
    assert phase["loss_first"] == pytest.approx(math.log(3), rel=1e-3) and phase["loss_last"] >= phase["loss_first"]


def test_the_mean_forgets_and_few_losses_say_nothing():
    trend = LossTrend()
    for index in range(FEWEST - 1):
        trend.take(5.0 - index)
        assert trend.details() == {}
    trend.take(math.nan)
    assert trend.details() == {}
    for _ in range(100):
        trend.take(2.0)
    assert trend.first == 5.0 and trend.last == pytest.approx(2.0, abs=1e-3)


def test_the_checkpoint_of_an_earlier_version_says_nothing():
    trend = LossTrend(*(upgraded_trend({"loss": 1.0})[f"trend.{name}"] for name in ("first", "last", "count")))
    for _ in range(100):
        trend.take(1.0)
    assert trend.details() == {}
    assert upgraded_trend({"trend.count": 3})["trend.count"] == 3
