"""`result.json` is written and read by one class: unknown entries are refused when written, left out when read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from subsetopt.documents.base import problem
from subsetopt.documents.run import Models, RunDocument
from subsetopt.report.result_file import read_result_file
from subsetopt.training.run import train
from subsetopt.training.settings.run import make_config

CONFIG = {"dataset": "digits", "model": "linear", "subset_size": 50, "max_iterations": 2, "handoff_epochs": 0.2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a short finished run."""
    path = tmp_path_factory.mktemp("runs") / "run"
    train(make_config(CONFIG, {"output": path}), figure=False)
    return path


def test_a_file_is_what_its_document_writes(run: Path) -> None:
    content = json.loads((run / "result.json").read_text())
    assert read_result_file(run, "").content() == content == RunDocument.read(content).content()
    promised = {"overdetermination", "solve", "handoff", "metrics", "cost", "seed", "version"}
    assert promised <= content.keys() and content["solve"]["solver"] == "lbfgs"


def test_unknown_entries_are_left_out_of_a_read_document_and_refused_in_a_written_one(run: Path) -> None:
    content = json.loads((run / "result.json").read_text())
    later = {**content, "colour": "red", "cost": {**content["cost"], "carbon": 1.0}}
    assert RunDocument.read(later).content() == content
    with pytest.raises(ValidationError, match=r"colour|carbon"):
        RunDocument.model_validate(later)
    with pytest.raises(ValidationError, match="extra"):
        Models(last="model.safetensors", third="x")  # type: ignore[call-arg]  # what is tested


def test_a_phase_keeps_what_its_own_method_says(run: Path) -> None:
    content = json.loads((run / "result.json").read_text())
    content["phases"][0]["temperature"] = 3
    assert RunDocument.read(content).content()["phases"][0]["temperature"] == 3


@pytest.mark.parametrize("overflown", [math.nan, math.inf, None])
def test_a_loss_that_is_not_finite_is_null(result: dict[str, Any], overflown: float | None) -> None:
    result["metrics"]["test"]["loss"] = result["phases"][0]["loss"] = overflown
    document = RunDocument.read(result)
    assert document.metrics["test"]["loss"] is None and document.phases[0].loss is None


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("cost", {}, "cost.epoch_equivalents: field required"),
        ("phases", [], "phases: list should have at least 1"),
        ("seed", "7", "seed: input should be a valid integer"),
        ("metrics", {"test": 3}, "metrics.test: input should be"),
    ],
)
def test_a_damaged_entry_is_named(result: dict[str, Any], entry: str, value: object, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        RunDocument.read({**result, entry: value})
    assert problem(caught.value).startswith(words)


def test_a_result_of_an_earlier_version_is_read(result: dict[str, Any]) -> None:
    """The fixture has no assessment, models, digest or loss scale, as before they were written."""
    document = RunDocument.read(result)
    assert document.models is None and document.assessment.alarms == [] and document.content() == result


def test_subsets_that_no_budget_let_begin_are_none(result: dict[str, Any]) -> None:
    result["phases"][1]["subsets"] = {}
    assert RunDocument.read(result).phases[1].subsets is None
