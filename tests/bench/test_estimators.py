"""The comparison with scikit-learn's perceptron: what it counts, against what the models themselves say."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.datasets import load_wine
from sklearn.neural_network import MLPClassifier

from subsetopt.bench import estimators_same_loss
from subsetopt.bench.estimators import bundled, markdown, measured
from subsetopt.bench.estimators_same_loss import Counted, markdown_same_loss, same_loss
from subsetopt.sklearn import SubsetClassifier


def test_evaluated_rows_are_counted_for_both_packages():
    X, y = load_wine(return_X_y=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Counted() as ours:
            model = SubsetClassifier((4,), random_state=0, max_iter=15).fit(X, y)
        with Counted() as adam:
            MLPClassifier((4,), random_state=0, max_iter=7).fit(X, y)
        MLPClassifier((4,), random_state=0, max_iter=2).fit(X, y)
    assert ours.rows == len(X) * model.result_.counts["evaluations"]
    assert adam.rows == 7 * len(X)


def test_a_record_for_each_contestant_on_the_same_split():
    records = list(measured("wine", bundled("wine"), 0, 100))
    assert [record["model"] for record in records] == ["scikit-learn adam", "scikit-learn lbfgs", "subsetopt"]
    assert {record["rows"] for record in records} == {100}
    assert markdown(records).count("| wine | 100 x 13 |") == 3


def test_the_estimator_stops_at_the_loss_that_the_other_one_ends_at(monkeypatch):
    problems = {"wine": estimators_same_loss.PROBLEMS["wine"]}
    monkeypatch.setattr(estimators_same_loss, "PROBLEMS", problems)
    (record,) = same_loss(0)
    assert record["own_loss"] <= record["loss"]
    assert record["own_evaluations"] >= 1
    assert np.isfinite(record["own_seconds"] / record["seconds"])
    assert "| wine | 178 x 13 |" in markdown_same_loss([record])
