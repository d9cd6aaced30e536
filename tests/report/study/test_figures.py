"""What the pictures show: the front against brute force, the points at their places, which lines are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from subsetopt.documents.comparison import ComparisonDocument
from subsetopt.report.study.figures import (
    SHOWN_AT_FIRST,
    curve_kinds,
    curve_picture,
    metric_picture,
    pareto_front,
    pareto_picture,
    shown_methods,
)
from subsetopt.report.study.files import CurvePoint, read_curves
from tests.report.study.study_fixture import METHODS, summary, write_study


@pytest.mark.parametrize("higher", [True, False])
def test_front_holds_exactly_the_results_that_nothing_beats(higher: bool) -> None:
    study = ComparisonDocument.read({**summary(), "higher_is_better": higher})
    sign = 1 if higher else -1

    def beaten(row: Any, by: Any) -> bool:
        ours, theirs = (row.cost_including_tuning, -sign * row.mean), (by.cost_including_tuning, -sign * by.mean)
        return theirs[0] <= ours[0] and theirs[1] <= ours[1] and theirs != ours

    expected = {(r.method, r.budget) for r in study.results if not any(beaten(r, by) for by in study.results)}
    assert {(row.method, row.budget) for row in pareto_front(study)} == expected


def test_every_line_of_a_curve_picture_belongs_to_a_method(tmp_path: Path) -> None:
    study, points = ComparisonDocument.read(summary()), read_curves(write_study(tmp_path))
    picture = curve_picture(study, points, 10.0, "train", "cost", shown_methods(study))
    assert picture is not None and picture.caption.startswith("Training loss against cost")
    lines = [group for group in ElementTree.fromstring(picture.svg).iter("g") if group.find("title") is not None]
    assert [line.findtext("title") for line in lines] == list(METHODS)
    accuracy = curve_picture(study, points, 1.0, "metric", "seconds", shown_methods(study))
    assert accuracy is not None and accuracy.caption == "Validation accuracy against seconds, budget 1"
    assert "80 %" in ElementTree.fromstring(accuracy.svg).itertext(), "an accuracy axis is linear, in per cent"
    assert curve_picture(study, points, 99.0, "train", "cost", frozenset()) is None


def test_losses_on_each_methods_own_subset_are_not_compared() -> None:
    kinds = ("subset", "train", "validation")
    assert curve_kinds([CurvePoint("m", 1, 0, 0, 0, 1, kind) for kind in kinds]) == ["validation", "train"]


def test_better_points_lie_higher_and_dearer_points_further_right() -> None:
    study = ComparisonDocument.read(summary())
    picture = metric_picture(study, "seconds", frozenset({0}))
    assert picture is not None
    groups = ElementTree.fromstring(picture.svg).iter("g")
    marks = [mark for g in groups if g.get("data-s") == "0" for mark in g.iter("path") if mark.get("class") == "mark"]
    starts = [tuple(map(float, mark.attrib["d"][1:].split("a")[0].split())) for mark in marks]
    assert len(starts) == 3
    assert starts == sorted(starts) and [y for _, y in starts] == sorted((y for _, y in starts), reverse=True)


def test_many_methods_start_with_the_best_and_a_study_without_results_has_no_picture() -> None:
    content = summary()
    extra = [{"name": f"extra-{index}"} for index in range(12)]
    worse = [{"method": m["name"], "budget": 10.0, "metric": "accuracy", "mean": 0.1, "cost_mean": 9.0} for m in extra]
    study = ComparisonDocument.read(
        {**content, "methods": extra + content["methods"], "results": worse + content["results"]}
    )
    assert shown_methods(study) == frozenset(range(12, 12 + SHOWN_AT_FIRST))
    empty = ComparisonDocument.read({**content, "results": []})
    assert metric_picture(empty, "cost", frozenset()) is None and pareto_picture(empty, frozenset()) is None


def test_an_interval_beyond_all_samples_does_not_stretch_the_axis_of_an_accuracy() -> None:
    content = summary()
    for row in content["results"]:
        row["interval"] = [row["mean"] - 2.0, row["mean"] + 2.0]
    picture = metric_picture(ComparisonDocument.read(content), "cost", frozenset(range(len(METHODS))))
    assert picture is not None
    labels = [text.strip() for text in ElementTree.fromstring(picture.svg).itertext() if text.strip().endswith("%")]
    assert labels[-1] == "100 %" and labels[0] == "0 %"


def test_the_band_of_two_unlike_seeds_does_not_flatten_the_lines() -> None:
    study = ComparisonDocument.read(summary())
    losses = {0: (1.0, 1000.0), 1: (1.0, 0.0001)}
    points = [
        CurvePoint("adam", 1.0, seed, float(cost), 0.0, value, "train")
        for seed, values in losses.items()
        for cost, value in enumerate(values)
    ]
    picture = curve_picture(study, points, 1.0, "train", "cost", frozenset({METHODS.index("adam")}))
    assert picture is not None
    line = next(p for p in ElementTree.fromstring(picture.svg).iter("path") if p.get("class") == "line")
    heights = [float(point.split()[1]) for point in line.attrib["d"][1:].split("L")]
    assert max(heights) - min(heights) > 0.4 * 200, "the line has about half of the axis, 202 units high"


def test_a_dearer_result_that_is_better_by_rounding_alone_is_not_on_the_front() -> None:
    rows = [
        {"method": "sgd", "budget": 1.0, "metric": "accuracy", "mean": 0.3, "cost_mean": 1.0},
        {"method": "adam", "budget": 1.0, "metric": "accuracy", "mean": 0.1 + 0.2, "cost_mean": 2.0},
    ]
    study = ComparisonDocument.read({**summary(), "results": rows})
    assert [row.method for row in pareto_front(study)] == ["sgd"]
