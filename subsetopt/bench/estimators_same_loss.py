"""CPU seconds to one loss: scikit-learn's perceptron with L-BFGS and the estimators, at equal settings.

Both have 100 tanh units and the same penalty on the same standardised rows. scikit-learn stops by its own tests; the
estimator is stopped at the first iteration at which its objective, which counts biases in, is no higher.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
from sklearn import datasets
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
from sklearn.preprocessing import StandardScaler

from subsetopt.sklearn import SubsetClassifier, SubsetRegressor
from subsetopt.sklearn.perceptron import PerceptronObjective

# The last three took no part in any choice of settings.
PROBLEMS: dict[str, Callable[[], Any]] = {
    "digits": lambda: datasets.load_digits(return_X_y=True),
    "breast_cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    "wine": lambda: datasets.load_wine(return_X_y=True),
    "diabetes": lambda: datasets.load_diabetes(return_X_y=True),
    "iris": lambda: datasets.load_iris(return_X_y=True),
    "made 500 x 50": lambda: datasets.make_classification(500, 50, n_informative=10, n_classes=3, random_state=0),
    "made 5000 x 20": lambda: datasets.make_classification(5000, 20, n_informative=10, n_classes=3, random_state=0),
}
STRENGTH = {True: 3.0, False: 10.0}  # l2 x rows, of a classifier and of a regressor
LONGEST = 300  # iterations


class Counted:
    """Counts rows whose loss and gradient are evaluated inside the block, by either package; `rows` has them."""

    def __init__(self) -> None:
        self.rows = 0

    def __enter__(self) -> Self:
        """Wrap the methods that evaluate."""
        self._places = [(PerceptronObjective, "_evaluate"), (BaseMultilayerPerceptron, "_backprop")]
        self._originals = [getattr(owner, name) for owner, name in self._places]
        ours, theirs = self._originals

        def evaluate(objective: Any, w: Any) -> Any:
            self.rows += len(objective.sample)
            return ours(objective, w)

        def backprop(model: Any, X: Any, *rest: Any, **named: Any) -> Any:
            self.rows += len(X)
            return theirs(model, X, *rest, **named)

        for (owner, name), wrapped in zip(self._places, (evaluate, backprop), strict=True):
            setattr(owner, name, wrapped)
        return self

    def __exit__(self, *failure: object) -> None:
        """Put them back."""
        for (owner, name), original in zip(self._places, self._originals, strict=True):
            setattr(owner, name, original)


def same_loss(seed: int) -> Iterator[dict[str, Any]]:
    """Yield a record for each problem: seconds and evaluations of both, and the loss reached."""
    for name, load in PROBLEMS.items():
        X, y = load()
        classes = name != "diabetes"
        X = StandardScaler().fit_transform(X)
        y = y if classes else (y - y.mean()) / y.std()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield {"data": name, "rows": len(X), "features": X.shape[1], "seed": seed, **_pair(X, y, classes, seed)}


def _pair(X: Any, y: Any, classes: bool, seed: int) -> dict[str, Any]:
    kind, own_kind = (MLPClassifier, SubsetClassifier) if classes else (MLPRegressor, SubsetRegressor)
    # Half the squared error is what scikit-learn has, the whole of it ours: the same minima at half the penalty.
    factor = 1.0 if classes else 0.5
    alpha = factor * STRENGTH[classes]
    theirs, seconds, evaluations = _timed(kind(activation="tanh", solver="lbfgs", alpha=alpha, random_state=seed), X, y)
    biases = sum(float(np.square(bias).sum()) for bias in theirs.intercepts_)
    loss = (theirs.loss_ + 0.5 * alpha / len(X) * biases) / factor
    l2 = STRENGTH[classes] / len(X)
    settings: dict[str, Any] = {"l2": l2, "gtol": 0.0, "random_state": seed, "standardize": False}
    curve = np.array(own_kind(max_iter=LONGEST, **settings).fit(X, y).loss_curve_)
    reached = np.flatnonzero(curve <= loss)
    iterations = int(reached[0]) if len(reached) else LONGEST
    own, own_seconds, own_evaluations = _timed(own_kind(max_iter=max(1, iterations), **settings), X, y)
    return {
        "loss": loss,
        "own_loss": own.loss_,
        "seconds": seconds,
        "own_seconds": own_seconds,
        "evaluations": evaluations,
        "own_evaluations": own_evaluations,
    }


def _timed(model: Any, X: Any, y: Any) -> tuple[Any, float, float]:
    with Counted() as counted:
        begin = time.process_time()
        model.fit(X, y)
        seconds = time.process_time() - begin
    return model, seconds, counted.rows / len(X)


def markdown_same_loss(records: list[dict[str, Any]]) -> str:
    """Return a table of medians over seeds."""
    lines = [
        "| data | rows x features | loss | evaluations | of subsetopt | CPU seconds | of subsetopt | ratio |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in dict.fromkeys(record["data"] for record in records):
        own = [record for record in records if record["data"] == name]
        ratio = statistics.median(record["own_seconds"] / record["seconds"] for record in own)
        columns = ("loss", "evaluations", "own_evaluations", "seconds", "own_seconds")
        numbers = " | ".join(f"{statistics.median(record[column] for record in own):.3g}" for column in columns)
        lines.append(f"| {name} | {own[0]['rows']} x {own[0]['features']} | {numbers} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"
