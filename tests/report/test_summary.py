"""The summary tells what result.json holds, in words that need no manual."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from subsetopt.report import summary
from subsetopt.report.table import text_table
from subsetopt.report.words import stop_advice, stop_phrase
from subsetopt.solvers.protocol import StopReason


def test_ratio_is_told_with_its_formula_and_the_numbers_of_the_result(result: dict[str, Any]) -> None:
    text = " ".join(summary(result, None).split())
    assert "Q = K·M/P = 129 samples x 10 outputs / 610 parameters = 2.11" in text
    assert result["overdetermination"]["verdict"] in text


def test_every_phase_says_why_it_stopped_and_unfinished_ones_what_to_do(result: dict[str, Any]) -> None:
    text = summary(result, None)
    assert "2. subset solve: lbfgs on the subset (129 samples) - minimum reached" in text
    assert "3. hand-off: lbfgs on the full training set (1294 samples) - budget spent" in text
    assert "--handoff-epochs" in text and "1 min 15 s" in text and "More of it" in text


def test_accuracies_before_and_after_the_handoff_stand_in_one_row(result: dict[str, Any]) -> None:
    row = next(line.split() for line in summary(result, None).splitlines() if line.startswith("  test"))
    assert row == ["test", "0.55", "86.00", "%", "0.12", "95.50", "%"]


def test_regression_shows_mse_and_a_run_without_handoff_one_pair_of_columns(result: dict[str, Any]) -> None:
    result |= {"metrics_before_handoff": None, "handoff": None, "metrics": {"train": {"loss": 0.5, "mse": 1.0}}}
    lines = summary(result, None).splitlines()
    assert next(line.split() for line in lines if line.startswith("  train ")) == ["train", "0.5", "1"]
    assert any(line.split() == ["data", "loss", "mse"] for line in lines)


def test_numbers_that_were_not_finite_do_not_break_the_summary(result: dict[str, Any]) -> None:
    result["metrics"]["test"]["loss"] = None
    result["phases"][1]["loss"] = None
    assert "not finite" in summary(result, None)


def test_only_files_that_exist_are_listed(result: dict[str, Any], run_directory: Path) -> None:
    text = summary(result, run_directory)
    assert "result.json" in text and "metrics.jsonl" in text and "model.safetensors" not in text
    assert f"subsetopt evaluate {run_directory}" in text


@pytest.mark.parametrize("reason", list(StopReason))
def test_every_stop_reason_has_words_of_its_own_and_advice_unless_asked_for(reason: StopReason) -> None:
    assert stop_phrase(reason) != str(reason) or reason is StopReason.INTERRUPTED
    planned = reason.converged or reason in (StopReason.SCHEDULE_END, StopReason.CALLBACK)
    assert bool(stop_advice(reason)) is not planned


def test_table_aligns_text_left_and_numbers_right() -> None:
    assert text_table([["name", "n"], ["a", "10"], ["long one", "5"]], indent="") == [
        "name       n",
        "a         10",
        "long one   5",
    ]


def test_a_mean_over_mini_batches_is_called_that(result: dict[str, Any]) -> None:
    """Before: "objective 0.25" of a warm-up whose objective nobody had evaluated, in "iterations"."""
    text = " ".join(summary(result, None).split())
    assert "120 steps, mean loss of the last mini-batches 0.25" in text and "120 iterations, objective 0.25" in text


def test_a_solve_on_all_data_is_no_subset_solve(result: dict[str, Any]) -> None:
    result["solve"]["data"] = result["phases"][1]["data"] = "full"
    text = summary(result, None)
    assert "subset solve" not in text and "after the solve and after the hand-off" in text
