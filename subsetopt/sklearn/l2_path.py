"""The L2 path: one solve after another from the strongest penalty to the weakest, each from the end of the last.

A minimum with a strong penalty is cheap to find, and near it lies that of the next weaker one; the curvature pairs of
the last solve are kept, too (continuation: Friedman, Hastie & Tibshirani 2010, section 2.5, for linear models).
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Self

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing, indexable

from subsetopt.errors import SettingError
from subsetopt.sklearn.base import SubsetEstimator
from subsetopt.sklearn.classifier import SubsetClassifier
from subsetopt.sklearn.regressor import SubsetRegressor

STRENGTHS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)


@dataclass(frozen=True)
class L2Path:
    """Penalties from the strongest to the weakest, and for each the fitted estimator's loss, score and cost.

    `scores` are of `estimator.score` on held-out rows, NaN where none were given. `evaluations` and `iterations` are
    those of each solve; `estimators` are independent copies.
    """

    l2: tuple[float, ...]
    estimators: tuple[Any, ...]
    losses: tuple[float, ...]
    scores: tuple[float, ...]
    evaluations: tuple[int, ...]
    iterations: tuple[int, ...]

    @property
    def best(self) -> Any:
        """The estimator with the highest held-out score, the one with the stronger penalty of equal ones."""
        return self.estimators[int(np.argmax(self.scores))]


def l2_path(
    estimator: Any,
    X: Any,
    y: Any,
    l2: Sequence[float] = STRENGTHS,
    *,
    held_out: tuple[Any, Any] | None = None,
    sample_weight: Any = None,
) -> L2Path:
    """Fit `estimator`, a `SubsetClassifier` or `SubsetRegressor`, for each penalty of `l2`, strong to weak.

    `held_out` (X, y) are rows that scores are taken on. The estimator given is not changed. Raises `SettingError` for
    penalties that are not positive numbers, and what `fit` raises.
    """
    if not isinstance(estimator, SubsetEstimator):
        raise SettingError(
            "estimator", type(estimator).__name__, "has no path", "give a SubsetClassifier or -Regressor"
        )
    strengths = ordered(l2)
    moving = clone(estimator).set_params(warm_start=True)
    fitted, scores = [], []
    for strength in strengths:
        moving.set_params(l2=strength).fit(X, y, sample_weight=sample_weight)
        fitted.append(_copy(moving))
        scores.append(float("nan") if held_out is None else float(moving.score(*held_out)))
    return L2Path(
        strengths,
        tuple(fitted),
        tuple(each.loss_ for each in fitted),
        tuple(scores),
        tuple(int(each.result_.counts["evaluations"]) for each in fitted),
        tuple(each.n_iter_ for each in fitted),
    )


def ordered(l2: Any) -> tuple[float, ...]:
    """Return the penalties from the strongest to the weakest, each once."""
    values = [l2] if isinstance(l2, Real) else list(l2) if hasattr(l2, "__iter__") and not isinstance(l2, str) else []
    known = all(
        isinstance(each, Real) and not isinstance(each, bool) and 0 <= float(each) < math.inf for each in values
    )
    if not values or not known:
        raise SettingError("l2", l2, "needs numbers from 0", "give for example [1e-4, 1e-3, 1e-2]")
    return tuple(sorted({float(each) for each in values}, reverse=True))


def _copy(estimator: SubsetEstimator) -> SubsetEstimator:
    taken = copy.deepcopy(estimator)
    taken._curvature = None
    return taken


def _choose(estimator: Any, plain: SubsetEstimator, X: Any, y: Any, sample_weight: Any) -> None:
    """Set `l2_`, `l2s_`, `scores_` and what the fit of all rows with that penalty learns on `estimator`."""
    strengths = ordered(estimator.l2s)
    plain._checked(X, y)  # scikit-learn's errors before any work
    X, y = indexable(X, y)
    folds = check_cv(estimator.cv, y, classifier=is_classifier(plain))
    score = check_scoring(plain, scoring=estimator.scoring)
    scores = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for train, test in folds.split(X, y):
            weights = None if sample_weight is None else np.asarray(sample_weight)[train]
            path = l2_path(plain, _safe_indexing(X, train), _safe_indexing(y, train), strengths, sample_weight=weights)
            rows, labels = _safe_indexing(X, test), _safe_indexing(y, test)
            scores.append([score(each, rows, labels) for each in path.estimators])
    estimator.l2s_ = np.array(strengths)
    estimator.scores_ = np.array(scores).T
    chosen = int(np.argmax(estimator.scores_.mean(axis=1)))
    estimator.l2_ = strengths[chosen]
    final = l2_path(plain, X, y, strengths[: chosen + 1], sample_weight=sample_weight).estimators[-1]
    settings = plain.get_params(deep=False)
    vars(estimator).update({name: value for name, value in vars(final).items() if name not in settings})


class _L2ChosenMixin:
    """`fit` that chooses the penalty by cross-validation along the L2 path."""

    _plain: type[SubsetEstimator]

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "tanh",
        *,
        l2s: Any = STRENGTHS,
        cv: Any = None,
        scoring: Any = None,
        solver: str = "lbfgs",
        subset_frac: float | str = "auto",
        gtol: float = 3e-4,
        max_iter: int = 200,
        standardize: bool = True,
        dtype: str = "auto",
        device: str = "cpu",
        random_state: Any = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.l2s = l2s
        self.cv = cv
        self.scoring = scoring
        self.solver = solver
        self.subset_frac = subset_frac
        self.gtol = gtol
        self.max_iter = max_iter
        self.standardize = standardize
        self.dtype = dtype
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Choose the penalty of `l2s` with the best mean score over the folds, and fit all rows with it."""
        own = {name: value for name, value in vars(self).items() if name in self._plain._get_param_names()}
        _choose(self, self._plain(**own), X, y, sample_weight)
        return self


class SubsetClassifierCV(_L2ChosenMixin, SubsetClassifier):
    """`SubsetClassifier` whose `l2` is chosen from `l2s` by cross-validation (`cv`, `scoring` as in scikit-learn).

    Each fold follows the L2 path. Fitted besides: `l2_` (the choice), `l2s_` from the strongest to the weakest, and
    `scores_` (len(l2s_), folds).
    """

    _plain = SubsetClassifier


class SubsetRegressorCV(_L2ChosenMixin, SubsetRegressor):
    """`SubsetRegressor` whose `l2` is chosen as in `SubsetClassifierCV`."""

    _plain = SubsetRegressor
