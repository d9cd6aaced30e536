"""Which methods a comparison holds against the best first-order one, from figures made up for the purpose."""

from __future__ import annotations

from typing import Any

import pytest

from subsetopt.compare.cells import CellMaker
from subsetopt.compare.config import make_study
from subsetopt.compare.summary import _family
from subsetopt.compare.verdicts import sentences
from subsetopt.documents.comparison import ComparisonDocument
from tests.compare.conftest import SMALL

MEANS = {"kfac-stream": 0.95, "adam": 0.93, "lbfgs@0.2+full": 0.90, "lbfgs": 0.97}
FAMILIES = {"kfac-stream": "stream", "adam": "first-order", "lbfgs@0.2+full": "subset", "lbfgs": "solver"}


def summary() -> dict[str, Any]:
    names = list(MEANS)
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]]
    return {
        "budgets": [2.0],
        "budget_unit": "epoch-equivalents",
        "metric": "accuracy",
        "higher_is_better": True,
        "seeds": [0, 1],
        "methods": [{"name": name, "family": FAMILIES[name], "tuning": []} for name in names],
        "time_to_target": [],
        "failures": [],
        "results": [
            {"method": name, "budget": 2.0, "metric": "accuracy", "n": 2, "mean": mean, "interval": None}
            for name, mean in MEANS.items()
        ],
        "comparisons": [
            {
                "a": a,
                "b": b,
                "budget": 2.0,
                "metric": "accuracy",
                "difference": MEANS[a] - MEANS[b],
                "interval": None,
                "p_adjusted": None,
                "verdict": "better" if MEANS[a] > MEANS[b] else "worse",
            }
            for a, b in pairs
        ],
    }


def test_subset_solves_and_streams_are_each_held_against_the_best_first_order_method() -> None:
    _, subset, stream, *_ = sentences(ComparisonDocument.read(summary()))
    assert "with a subset solve, lbfgs@0.2+full, is worse than the best first-order one, adam: -3.00 points" in subset
    assert "of fresh subsets, kfac-stream, is better than the best first-order one, adam: +2.00 points" in stream


def test_a_baseline_is_what_all_others_are_tested_against() -> None:
    content = summary()
    content["baseline"] = "adam"
    content["comparisons"] = [row for row in content["comparisons"] if "adam" in (row["a"], row["b"])]
    for row, size in zip(content["comparisons"], (0.01, 0.03, 0.02), strict=True):
        row["detectable"] = size
    lines = sentences(ComparisonDocument.read(content))
    assert "Against adam, better: lbfgs and kfac-stream; worse: lbfgs@0.2+full." in lines
    power = "show with 80 % power is 2.00 points (1.00 points to 3.00 points, by pair)."
    assert any(line.endswith(power) for line in lines)
    tested = lines[-1]
    assert "over the comparisons with adam" in tested and "Among 3 pairs the first must have p < 0.017" in tested


def test_a_test_loss_never_ranks_alone_where_nobody_tuned_the_regularisation() -> None:
    content = summary()
    content |= {"metric": "mse", "higher_is_better": False}
    content["objective"] = {"kind": "same", "l2": 0.001, "text": "All methods minimise the same objective."}
    content["results"] = [{**row, "objective_mean": 2 - row["mean"], "metric": "mse"} for row in content["results"]]
    content["comparisons"] = [{**row, "metric": "mse"} for row in content["comparisons"]]
    reached = {"cost_mean": 1.0, "seconds_mean": 1.0, "reached": 2, "of": 2}
    content["time_to_target"] = [{"method": "adam", "target": 0.3, **reached}]
    lines = sentences(ComparisonDocument.read(content))
    assert "lbfgs@0.2+full has the best mean test mse, 0.9 (training objective 1.1, the 4th lowest of 4)" in lines[0]
    (target,) = (line for line in lines if line.startswith("A held-out loss"))
    assert target.endswith("after 2 epoch-equivalents adam has the training objective 1.07, the 3rd lowest of 4.")
    (rival,) = (line for line in lines if line.startswith("The best method with a subset solve"))
    assert "lbfgs@0.2+full (training objective 1.1), is " in rival and "adam (training objective 1.07)" in rival
    assert content["objective"]["text"] in lines


def test_methods_that_come_to_the_same_are_named() -> None:
    content = summary()
    content["results"] = [{**row, "values": [0.5, 0.6], "loss_mean": 0.1} for row in content["results"][:2]]
    lines = sentences(ComparisonDocument.read(content))
    assert any(line.startswith("kfac-stream and adam gave the same results") for line in lines)


def test_one_method_alone_is_compared_with_nothing() -> None:
    alone = {**summary(), "comparisons": [], "methods": [{"name": "adam", "tuning": []}]}
    alone["results"] = [row for row in alone["results"] if row["method"] == "adam"]
    best, tested = sentences(ComparisonDocument.read(alone))
    assert best == "At 2 epoch-equivalents adam has the best mean test accuracy, 93.00 %."
    assert tested == "One method has nothing to be compared with: no test was made."


@pytest.mark.parametrize(
    ("method", "family"),
    [
        ("kfac-stream", "stream"),
        ("kfac-stream+sgd", "stream"),
        ("lbfgs@0.1+kfac-stream", "stream"),
        ("lbfgs@0.1+sgd", "subset"),
        ("lbfgs@0.01x4", "subset"),
        ("lbfgs", "solver"),
        ("srs@0.1/adam", "first-order"),
    ],
)
def test_a_stream_is_no_first_order_method_whatever_follows_it(method: str, family: str) -> None:
    maker = CellMaker(make_study({**SMALL, "methods": method}))
    assert _family(maker.description(method)) == family
