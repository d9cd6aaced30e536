"""The L2 path: one solve after another from the strongest penalty to the weakest, each from the end of the last.

A minimum with a strong penalty is cheap to find, and near it lies that of the next weaker one; the curvature pairs of
the last solve are kept, too (continuation: Friedman, Hastie & Tibshirani 2010, section 2.5, for linear models). Where
held-out rows choose one of them, the others are solved no further than the choice needs.
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
from subsetopt.sklearn.settings import check_parameters

LOOSER = 3.0  # how much larger a gradient may be while strengths are compared
LEAST_ITERATIONS, SHARE_OF_ITERATIONS = 20, 0.25  # for one weaker strength of these, and of max_iter
STRENGTHS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)


@dataclass(frozen=True)
class L2Path:
    """Penalties from the strongest to the weakest, and for each the fitted estimator's loss, score and cost.

    `scores` are of `estimator.score` on held-out rows, NaN where none were given. `evaluations` and `iterations` are
    those of each solve; `estimators` are independent copies. `converged` says whose gradient test was met.
    """

    l2: tuple[float, ...]
    estimators: tuple[Any, ...]
    losses: tuple[float, ...]
    scores: tuple[float, ...]
    evaluations: tuple[int, ...]
    iterations: tuple[int, ...]
    converged: tuple[bool, ...]

    @property
    def best(self) -> Any:
        """The estimator with the highest held-out score, the one with the stronger penalty of equal ones.

        One whose solve was cut short counts only where all were: its score is that of a stronger penalty.
        """
        return self.estimators[best_of(self.scores, self.converged)]


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

    `held_out` (X, y) are rows that scores are taken on. With them the gradient test is three times as loose and the
    iterations of a weaker penalty are a quarter as many, until the penalty with the best score is solved to the test
    that `estimator` has: eight strengths then cost about twice the dearest one. Without them each one is solved to that
    test. The estimator given is not changed. Raises `SettingError` for penalties that are not positive numbers, and
    what `fit` raises.
    """
    if not isinstance(estimator, SubsetEstimator):
        raise SettingError(
            "estimator", type(estimator).__name__, "has no path", "give a SubsetClassifier or -Regressor"
        )
    check_parameters({**estimator.get_params(deep=False), "l2": 0.0})
    data = (X, y, sample_weight)
    fitted = _followed(estimator, ordered(l2), data, hurried=held_out is not None)
    counts = [[int(each.result_.counts["evaluations"]), each.n_iter_] for each in fitted]
    scores = [float("nan") if held_out is None else float(each.score(*held_out)) for each in fitted]
    if held_out is not None:
        at = best_of(scores, [each.result_.converged for each in fitted])
        fitted[at] = _polished(fitted[at], estimator, data)
        scores[at] = float(fitted[at].score(*held_out))
        counts[at] = [counts[at][0] + int(fitted[at].result_.counts["evaluations"]), counts[at][1] + fitted[at].n_iter_]
    return L2Path(
        l2=tuple(each.l2_ for each in fitted),
        estimators=tuple(_parted(each, estimator) for each in fitted),
        losses=tuple(each.loss_ for each in fitted),
        scores=tuple(scores),
        evaluations=tuple(evaluations for evaluations, _ in counts),
        iterations=tuple(iterations for _, iterations in counts),
        converged=tuple(each.result_.converged for each in fitted),
    )


def best_of(scores: Any, converged: Any) -> int:
    """Return where the highest score is, among those that converged where any has; the first of equal ones."""
    known = [
        score if done or not np.any(converged) else -math.inf for score, done in zip(scores, converged, strict=True)
    ]
    return int(np.argmax(known))


def ordered(l2: Any) -> tuple[float, ...]:
    """Return the penalties from the strongest to the weakest, each once."""
    values = [l2] if isinstance(l2, Real) else list(l2) if hasattr(l2, "__iter__") and not isinstance(l2, str) else []
    known = all(
        isinstance(each, Real) and not isinstance(each, bool) and 0 <= float(each) < math.inf for each in values
    )
    if not values or not known:
        raise SettingError("l2", l2, "needs numbers from 0", "give for example [1e-4, 1e-3, 1e-2]")
    return tuple(sorted({float(each) for each in values}, reverse=True))


def _followed(estimator: SubsetEstimator, l2: Sequence[float], data: Any, hurried: bool) -> list[SubsetEstimator]:
    """Return the estimators of one path with their curvature; `hurried` ones are solved as far as a choice needs."""
    X, y, sample_weight = data
    moving = clone(estimator).set_params(warm_start=True)
    if hurried:
        moving.set_params(gtol=LOOSER * estimator.gtol)
    fitted: list[SubsetEstimator] = []
    for strength in l2:
        if hurried:
            # One after a penalty so strong that nothing was learnt starts afresh.
            share = max(LEAST_ITERATIONS, round(SHARE_OF_ITERATIONS * estimator.max_iter))
            near = bool(fitted) and not fitted[-1]._learnt_nothing
            moving.set_params(max_iter=min(estimator.max_iter, share) if near else estimator.max_iter)
        with warnings.catch_warnings():
            if hurried:
                warnings.simplefilter("ignore", ConvergenceWarning)
            moving.set_params(l2=strength).fit(X, y, sample_weight=sample_weight)
        fitted.append(copy.copy(moving))  # a fit replaces what it learns and changes none of it
    return fitted


def _polished(fitted: SubsetEstimator, like: SubsetEstimator, data: Any) -> SubsetEstimator:
    """Return `fitted` solved to the test of `like`, from its parameters and with its curvature."""
    X, y, sample_weight = data
    taken = copy.copy(fitted)
    taken.set_params(gtol=like.gtol, max_iter=like.max_iter)
    return taken.fit(X, y, sample_weight=sample_weight)


def _parted(fitted: SubsetEstimator, like: SubsetEstimator) -> SubsetEstimator:
    """Return `fitted` as an estimator of its own, with the settings of `like` but for the penalty."""
    taken = copy.deepcopy(fitted if like.warm_start else _without_curvature(fitted))
    taken.set_params(gtol=like.gtol, max_iter=like.max_iter, warm_start=like.warm_start)
    return taken


def _without_curvature(fitted: SubsetEstimator) -> SubsetEstimator:
    taken = copy.copy(fitted)
    taken._curvature, taken._trace = None, ()
    return taken


def _choose(estimator: Any, plain: SubsetEstimator, X: Any, y: Any, sample_weight: Any) -> None:
    """Set `l2_`, `l2s_`, `scores_` and what the fit of all rows with that penalty learns on `estimator`."""
    strengths = ordered(estimator.l2s)
    plain._checked(X, y)  # scikit-learn's errors before any work
    X, y = indexable(X, y)
    folds = check_cv(estimator.cv, y, classifier=is_classifier(plain))
    score = check_scoring(plain, scoring=estimator.scoring)
    scores, converged = [], []
    for train, test in folds.split(X, y):
        weights = None if sample_weight is None else np.asarray(sample_weight)[train]
        part = (_safe_indexing(X, train), _safe_indexing(y, train), weights)
        fitted = _followed(plain, strengths, part, hurried=True)
        rows, labels = _safe_indexing(X, test), _safe_indexing(y, test)
        scores.append([score(each, rows, labels) for each in fitted])
        converged.append([each.result_.converged for each in fitted])
    estimator.l2s_ = np.array(strengths)
    estimator.scores_ = np.array(scores).T
    chosen = best_of(estimator.scores_.mean(axis=1), np.mean(converged, axis=0) > 0.5)
    estimator.l2_ = strengths[chosen]
    data = (X, y, sample_weight)
    last = _followed(plain, strengths[: chosen + 1], data, hurried=True)[-1]
    final = _without_curvature(_polished(last, plain, data))
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

    @property
    def partial_fit(self) -> Any:
        """Raise `AttributeError`: folds need all rows."""
        remedy = f"use {self._plain.__name__}(l2=...)"
        raise AttributeError(f"{type(self).__name__} has no partial_fit: it needs all rows for its folds; {remedy}")


class SubsetClassifierCV(_L2ChosenMixin, SubsetClassifier):
    """`SubsetClassifier` whose `l2` is chosen from `l2s` by cross-validation (`cv`, `scoring` as in scikit-learn).

    Each fold follows the L2 path. Fitted besides: `l2_` (the choice), `l2s_` from the strongest to the weakest, and
    `scores_` (len(l2s_), folds).
    """

    _plain = SubsetClassifier


class SubsetRegressorCV(_L2ChosenMixin, SubsetRegressor):
    """`SubsetRegressor` whose `l2` is chosen as in `SubsetClassifierCV`."""

    _plain = SubsetRegressor
