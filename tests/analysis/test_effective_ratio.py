"""`effective_run` on small runs: which numbers it joins, what it saw, and what it says where theory ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from subsetopt.analysis.effective_ratio import effective_run
from subsetopt.analysis.excess import predicted_excess, samples_for_excess
from subsetopt.analysis.verification import verify_run
from subsetopt.data import Dataset, dataset_from_arrays
from subsetopt.documents.analysis import EffectiveRatioDocument
from subsetopt.errors import SettingError
from subsetopt.seeding import make_generator, seeded_globals
from subsetopt.training import make_config, train


def small_dataset() -> Dataset:
    generator = make_generator(0, "effective-run")
    x = torch.randn(240, 4, generator=generator)
    noise = torch.randn(240, 3, generator=generator)
    return dataset_from_arrays(x, (x @ torch.randn(4, 3, generator=generator) + noise).argmax(1))


def small_model(norm: bool = False) -> nn.Module:
    with seeded_globals(0, "init"):
        middle = [nn.BatchNorm1d(4)] if norm else []
        return nn.Sequential(nn.Linear(4, 4), *middle, nn.Tanh(), nn.Linear(4, 3))


OBJECTS: dict[str, Any] = {"model": small_model().double(), "dataset": small_dataset()}
SETTINGS = {"subset_frac": 0.5, "l2": 0.05, "gtol": 1e-6, "dtype": "float64"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A subset solve and a full solve after it, both to their gradient tests."""
    directory = tmp_path_factory.mktemp("effective") / "run"
    train(make_config(SETTINGS, {"output": directory, "handoff": "full", "handoff_epochs": 400.0}), **OBJECTS)
    return directory


def test_predictions_observations_and_answers_belong_together(run: Path) -> None:
    document = effective_run(run, on="subset", excess=0.02, subset_frac=0.25, **OBJECTS).content()
    assert EffectiveRatioDocument.read(json.loads(json.dumps(document))).content() == document
    p, full = document["effective_parameters"], document["full_minimum"]
    assert document["hessian"] == "hessian" and p["by"] == "leave-one-out"
    factor = document["trace_within_classes"]["value"] / document["trace"]["value"]
    assert p["value"] == pytest.approx(document["leave_one_out"]["value"] * factor)
    assert document["effective_ratio"] == pytest.approx(108 / p["value"]) and document["samples_full"] == 216
    assert document["predicted"]["excess"] == pytest.approx(predicted_excess(p["value"], 108, 216))
    assert document["asked"]["samples"] == 54 and document["asked"]["excess"] > document["predicted"]["excess"]
    target = document["target"]
    assert target["samples"] == samples_for_excess(p["value"], 0.02 * full["value"], 216)
    seen = document["observed"]
    assert full["observed"] and seen["full_minimum"] == verify_run(run, on="full", **OBJECTS).loss
    assert seen["excess"] == pytest.approx(seen["loss_full"] - seen["full_minimum"]) and seen["excess"] > 0
    assert seen["optimism"] == pytest.approx(seen["loss_full"] - document["loss"])


def test_at_the_full_minimum_there_is_no_excess_and_leave_one_out_agrees_with_the_trace(run: Path) -> None:
    document = effective_run(run, on="full", **OBJECTS).content()
    assert document["predicted"]["excess"] == 0 and document["observed"]["optimism"] is None
    assert document["leave_one_out"]["value"] == pytest.approx(document["trace"]["value"], rel=0.5)
    assert document["notes"] == []


def test_rows_zero_leaves_the_trace_and_an_unfinished_solve_is_told(tmp_path: Path) -> None:
    settings = {**SETTINGS, "handoff": "none", "max_iterations": 6, "stratify": False, "output": tmp_path / "run"}
    train(make_config(settings), **OBJECTS)
    document = effective_run(tmp_path / "run", rows=0, **OBJECTS).content()
    assert document["leave_one_out"] is None and document["trace_within_classes"] is None
    assert document["effective_parameters"] == {**_value(document["trace"]), "by": "trace"}
    assert not document["full_minimum"]["observed"] and document["observed"]["excess_at_least"] is None
    assert any("taken as a minimum" in note for note in document["notes"])


def _value(estimate: dict[str, float]) -> dict[str, float]:
    return {"value": estimate["value"], "error": estimate["error"]}


def test_away_from_a_minimum_the_gauss_newton_matrix_stands_in_and_batch_norm_has_no_leave_one_out(
    tmp_path: Path,
) -> None:
    objects = {**OBJECTS, "model": small_model(norm=True)}
    settings = {**SETTINGS, "l2": 1e-4, "dtype": "float32", "handoff": "none", "max_iterations": 3}
    train(make_config(settings, {"output": tmp_path / "run"}), **objects)
    document = effective_run(tmp_path / "run", **objects).content()
    assert document["hessian"] == "gauss-newton"
    assert "the hessian matrix is not positive definite here" in document["notes"]
    assert any("BatchNorm" in note for note in document["notes"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"excess": 0.0}, "excess = 0.0"),
        ({"subset_size": 300}, "subset_size = 300: there are 216"),
        ({"subset_frac": 1.5}, "subset_frac = 1.5"),
        ({"subset_frac": 0.5, "subset_size": 3}, "give one of them"),
        ({"rows": 1}, "rows = 1"),
    ],
)
def test_mistakes(run: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        effective_run(run, **settings, **OBJECTS)
