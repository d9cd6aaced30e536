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
