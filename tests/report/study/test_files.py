"""A study directory that is incomplete or damaged ends in one line that names the file and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from subsetopt.errors import DataError, RunDirectoryError
from subsetopt.report.study.files import is_study, read_curves, read_study
from tests.report.study.study_fixture import METHODS, summary, write_study

HEADER = "method,budget,seed,epoch_equivalents,seconds,loss,kind\n"


def test_every_entry_of_the_summary_arrives(tmp_path: Path) -> None:
    content = summary()
    study = read_study(write_study(tmp_path))
    assert study.names == list(METHODS) and study.seed_count == 5
    assert [row.mean for row in study.results] == [row["mean"] for row in content["results"]]
    assert study.content()["comparisons"] == content["comparisons"]


def test_an_unfinished_study_says_how_to_finish_it(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text("")
    assert is_study(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"has no summary\.json; finish the study") as caught:
        read_study(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_truncated_summary_is_one_line(tmp_path: Path) -> None:
    write_study(tmp_path)
    text = (tmp_path / "summary.json").read_text()
    (tmp_path / "summary.json").write_text(text[: len(text) // 2])
    with pytest.raises(RunDirectoryError, match=r"summary\.json cannot be read"):
        read_study(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"metric": "f1"}, "metric"),
        ({"kind": "representativeness"}, "kind"),
        ({"methods": []}, "methods"),
        ({"results": [{"method": "adam", "budget": "much", "metric": "accuracy"}]}, r"results\.0\.budget"),
        ({"results": [{"method": "who", "budget": 1, "metric": "accuracy"}]}, "method 'who' is not listed"),
        (
            {"comparisons": [{"a": "adam", "b": "sgd", "budget": 1, "metric": "accuracy", "verdict": "maybe"}]},
            r"comparisons\.0\.verdict",
        ),
    ],
)
def test_a_malformed_entry_is_named(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    write_study(tmp_path, {**summary(), **change})
    with pytest.raises(DataError, match=problem) as caught:
        read_study(tmp_path)
    assert "\n" not in str(caught.value) and "summary.json" in str(caught.value)


def test_optional_parts_may_be_missing_and_numbers_null_or_nan(tmp_path: Path) -> None:
    content = summary()
    least = {key: content[key] for key in ("metric", "budgets", "methods")}
    result = {"method": "adam", "budget": 1, "metric": "accuracy", "mean": float("nan"), "interval": [None, None]}
    study = read_study(write_study(tmp_path, {**least, "results": [result], "comparisons": None}))
    assert study.results[0].mean is None and study.comparisons == []


def test_curves_without_a_finite_loss_are_left_out_and_no_file_is_no_curve(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == []
    (tmp_path / "curves.csv").write_text(
        HEADER + "adam,1,0,0.5,2,,train\nadam,1,0,1,3,inf,train\nadam,1,0,1,4,2,train\n"
    )
    (point,) = read_curves(tmp_path)
    assert (point.cost, point.seconds, point.value, point.kind) == (1.0, 4.0, 2.0, "train")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("method,budget\nadam,1\n", "has no column 'seed'"),
        (HEADER + "adam,1,0,0.5,2,1,train\nadam,1,zero,0.5,2,1,train\n", "line 3"),
        (HEADER + "adam,1\n", "line 2"),
    ],
)
def test_malformed_curves_name_the_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "curves.csv").write_text(text)
    with pytest.raises(DataError, match=problem):
        read_curves(tmp_path)


def test_bytes_that_are_not_text_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "curves.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_curves(tmp_path)
