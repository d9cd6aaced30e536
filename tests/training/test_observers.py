"""Callbacks, the logger `subsetopt`, and trackers: what they hear, and that a stop is resumed bit for bit."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from subsetopt import SubsetTrainer, UserError
from subsetopt.data import dataset_from_arrays
from subsetopt.seeding import make_generator, seeded_globals

SETTINGS: dict[str, Any] = {"subset_frac": 0.5, "handoff": "full", "max_iterations": 6}


def problem() -> tuple[nn.Module, Any]:
    draw = make_generator(0, "x")
    x = torch.randn(80, 4, generator=draw)
    with seeded_globals(0, "init"):
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    return model, dataset_from_arrays(x, (x.sum(1) > 0).long())


def lines(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in found]


def test_callbacks_hear_every_record_and_phase(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    phases: list[dict[str, Any]] = []
    trainer = SubsetTrainer(
        *problem(), output=tmp_path / "run", on_iteration=heard.append, on_phase_end=phases.append, **SETTINGS
    ).fit()
    told = [{n: v for n, v in each.items() if n not in ("seconds", "fraction")} for each in heard]
    assert told == lines(tmp_path / "run") and not trainer.stopped
    assert [phase["role"] for phase in phases] == ["solve", "handoff"]
    assert phases[0]["stop_reason"] == trainer.result["solve"]["stop_reason"]


@pytest.mark.parametrize("phase_end", [False, True])
def test_a_run_that_a_callback_stops_is_resumed_bit_for_bit(phase_end: bool, tmp_path: Path) -> None:
    model, dataset = problem()
    whole = SubsetTrainer(model, dataset, output=tmp_path / "whole", **SETTINGS).fit()
    stop: dict[str, Any] = (
        {"on_phase_end": lambda record: True}
        if phase_end
        else {"on_iteration": lambda record: record["role"] == "solve" and record["iteration"] == 3}
    )
    part = SubsetTrainer(model, dataset, output=tmp_path / "part", **SETTINGS, **stop).fit()
    assert part.stopped and len(lines(tmp_path / "part")) < len(lines(tmp_path / "whole"))
    with pytest.raises(UserError, match="resume"):
        part.result  # noqa: B018 (the access is what raises)
    resumed = SubsetTrainer.resume(tmp_path / "part", model=model, dataset=dataset)
    assert not resumed.stopped and lines(tmp_path / "part") == lines(tmp_path / "whole")
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("answer", "stops"),
    [
        (True, True),
        (np.True_, True),
        (torch.tensor(True), True),
        (1, False),
        ("stop", False),
        (torch.ones(2) > 0, False),
    ],
)
def test_true_stops_whoever_compared_and_nothing_else_does(answer: Any, stops: bool, tmp_path: Path) -> None:
    """Before, a comparison of numpy's or torch's numbers was no answer."""
    settings = {**SETTINGS, "output": tmp_path / "run", "max_iterations": 2}
    assert SubsetTrainer(*problem(), on_iteration=lambda record: answer, **settings).fit().stopped is stops


def test_mistakes_with_callbacks_are_one_line() -> None:
    with pytest.raises(UserError, match="on_iteration"):
        SubsetTrainer(*problem(), on_iteration="print")
    for wrong in (lambda: True, lambda record, phase: True):
        with pytest.raises(UserError, match=r"on_phase_end = .*does not take one argument"):
            SubsetTrainer(*problem(), on_phase_end=wrong)
    with pytest.raises(UserError, match="give output"):
        SubsetTrainer(*problem(), on_iteration=lambda record: True, **SETTINGS).fit()


def test_phases_and_warnings_are_logged_under_one_name(caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    with caplog.at_level(logging.INFO, "subsetopt"):
        SubsetTrainer(*problem(), **{**SETTINGS, "subset_frac": 0.1}).fit()
    records = [(each.name, each.levelname, each.getMessage()) for each in caplog.records]
    assert any(text.startswith("phase 1 of 2: lbfgs on ") for _, level, text in records if level == "INFO")
    assert {name for name, _, _ in records} == {"subsetopt"}
    assert any(level == "WARNING" and "Q" in text for _, level, text in records)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_tracker_is_one_line_with_its_extra(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(UserError, match=rf"{name} is not installed; .*subsetopt\[{name}\]"):
        SubsetTrainer(*problem(), log_to=name, output=tmp_path / "run", **SETTINGS).fit()
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"log_to"):
        SubsetTrainer(*problem(), log_to="wandb")


def test_tensorboard_has_every_iteration_and_the_settings(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    SubsetTrainer(*problem(), output=tmp_path / "run", log_to="tensorboard", **SETTINGS).fit()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("solve/loss")]
    wanted = [(line["iteration"], line["loss"]) for line in lines(tmp_path / "run") if line["role"] == "solve"]
    assert [step for step, _ in losses] == [step for step, _ in wanted]
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in wanted], rel=1e-6)
    assert {"solve/gradient_norm", "solve/epoch_equivalents", "final/test_loss"} & set(events.Tags()["scalars"])


def test_mlflow_has_metrics_and_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed", exc_type=ImportError)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{tmp_path / 'mlruns'}")
    SubsetTrainer(*problem(), log_to="mlflow", **SETTINGS).fit()
    (run,) = mlflow.search_runs(output_format="list")
    assert run.data.params["subset_frac"] == "0.5" and run.info.status == "FINISHED"
    assert run.data.metrics["solve.gradient_norm"] > 0 and "final.train_loss" in run.data.metrics
