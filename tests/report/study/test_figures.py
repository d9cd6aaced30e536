"""What the pictures show: the front against brute force, the points at their places, which lines are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from subsetopt.documents.comparison import ComparisonDocument
from subsetopt.report.study.figures import (
    SHOWN_AT_FIRST,
    curve_kinds,
    curve_picture,
    fitting,
    metric_picture,
    pareto_front,
    pareto_picture,
    shown_methods,
)
from subsetopt.report.study.files import CurvePoint, read_curves
from tests.report.study.study_fixture import METHODS, summary, vertices, write_study


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
    groups = [group for group in ElementTree.fromstring(picture.svg).iter("g") if group.get("data-s") is not None]
    assert [METHODS[int(group.attrib["data-s"])] for group in groups] == list(METHODS)
    assert all([path.get("class") for path in group] == ["band", "line"] for group in groups)
    accuracy = curve_picture(study, points, 1.0, "metric", "seconds", shown_methods(study))
    assert accuracy is not None and accuracy.caption == "Validation accuracy against seconds, budget 1"
    assert "80 %" in ElementTree.fromstring(accuracy.svg).itertext(), "an accuracy axis is linear, in per cent"
    assert curve_picture(study, points, 99.0, "train", "cost", frozenset()) is None


def test_a_subset_solve_is_a_thin_line_of_the_training_picture() -> None:
    kinds = ("subset", "train", "validation")
    assert curve_kinds([CurvePoint("m", 1, 0, 0, 0, 1, kind) for kind in kinds]) == ["validation", "train"]
    assert curve_kinds([CurvePoint("m", 1, 0, 0, 0, 1, "subset")]) == ["train"]
    study = ComparisonDocument.read(summary())
    points = [CurvePoint("adam", 1.0, 0, cost, cost, 1 / (1 + cost), "train") for cost in (2.0, 3.0)]
    points += [CurvePoint("adam", 1.0, 0, cost, cost, 2 / (1 + cost), "subset") for cost in (0.0, 1.0)]
    points += [CurvePoint("sgd", 1.0, 0, cost, cost, 3 / (1 + cost), "subset") for cost in (0.0, 5.0)]
    picture = curve_picture(study, points, 1.0, "train", "cost", shown_methods(study))
    assert picture is not None and picture.caption.endswith("thin lines: on the method's own subset")
    groups = [group for group in ElementTree.fromstring(picture.svg).iter("g") if group.get("data-s") is not None]
    drawn = {METHODS[int(g.attrib["data-s"])]: [path.get("class") for path in g] for g in groups}
    assert drawn == {"adam": ["own", "line"], "sgd": ["own"]}
    held_out = curve_picture(study, points, 1.0, "validation", "cost", shown_methods(study))
    assert held_out is None, "no held-out loss was recorded"


def test_no_accuracy_is_drawn_beyond_100_per_cent() -> None:
    study = ComparisonDocument.read(summary())
    points = [
        CurvePoint("adam", 1.0, seed, float(cost), 0.0, value, "metric")
        for seed, values in enumerate(((0.5, 1.0, 0.99), (0.9, 0.9, 1.0), (0.7, 0.99, 1.0)))
        for cost, value in enumerate(values)
    ]
    picture = curve_picture(study, points, 1.0, "metric", "cost", frozenset({METHODS.index("adam")}))
    assert picture is not None
    root = ElementTree.fromstring(picture.svg)
    scale = json.loads(root.attrib["data-y"])
    assert scale["high"] == 1.0 and scale["limits"] == [0.0, 1.0]
    band = next(path for path in root.iter("path") if path.get("class") == "band")
    assert min(y for _, y in vertices(band.attrib["d"])) >= scale["end"] - 0.1, "the band ends at the top of the axes"
    texts = [text for text in root.itertext() if text.endswith("%")]
    assert texts[-1] == "100 %" and all(float(text.split()[0]) <= 100 for text in texts)


def test_many_long_curves_are_thinned_together_to_the_size_that_was_asked_for() -> None:
    study = ComparisonDocument.read(summary())
    rng = np.random.default_rng(3)
    points = [
        CurvePoint(method, 10.0, seed, cost, cost, float(np.exp(-cost / 3 + 0.3 * rng.standard_normal())), "train")
        for method in METHODS
        for seed in range(3)
        for cost in np.linspace(0.0, 10.0, 200)
    ]
    picture = curve_picture(study, points, 10.0, "train", "cost", shown_methods(study))
    assert picture is not None
    full = len(picture.svg)
    (thinned,) = fitting([picture], full // 2)
    assert len(thinned.svg) <= full // 2 and thinned.tolerance < 12.0
    assert fitting([picture], full) == [picture], "nothing is lost where there is room"


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
    heights = [y for _, y in vertices(line.attrib["d"])]
    assert max(heights) - min(heights) > 0.4 * 200, "the line has about half of the axis, 202 units high"


def test_a_dearer_result_that_is_better_by_rounding_alone_is_not_on_the_front() -> None:
    rows = [
        {"method": "sgd", "budget": 1.0, "metric": "accuracy", "mean": 0.3, "cost_mean": 1.0},
        {"method": "adam", "budget": 1.0, "metric": "accuracy", "mean": 0.1 + 0.2, "cost_mean": 2.0},
    ]
    study = ComparisonDocument.read({**summary(), "results": rows})
    assert [row.method for row in pareto_front(study)] == ["sgd"]
