"""`SubsetClassifier`: softmax classification."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from subsetopt.errors import SettingError
from subsetopt.sklearn.base import SubsetEstimator
from subsetopt.sklearn.rows import validated
from subsetopt.sklearn.scaling import Floats


class SubsetClassifier(ClassifierMixin, SubsetEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Multilayer perceptron for classification, solved to a minimum by a second-order method.

    `hidden_layer_sizes` (() is softmax regression), `activation`; `solver` is a name of `subsetopt list solvers`;
    `l2` the factor of 1/2 ||w||^2 beside the mean loss ("auto": c / rows, where c is chosen on held-out rows from 2000
    rows on, for regression from 50, and is 3, or 10, below); `subset_frac` the share of rows solved first ("auto": all
    of them, or a tenth from 20 000 rows on where no c was chosen on fewer); `gtol` the stopping test max|g| <= gtol S,
    where S is the loss at the start; `max_iter` iterations in all. `early_stopping` holds out `validation_fraction` of
    the rows and stops after `n_iter_no_change` iterations without a lower loss on them. With `warm_start` the next
    `fit` starts from the last parameters and curvature. `dtype` "auto" is float64 for small problems, float32 else.

    Fitted: `classes_`, `n_features_in_`, `feature_names_in_`, `n_iter_`, `loss_curve_` (objective per iteration of the
    last stage), `loss_`, `result_` (`SolveResult`), `overdetermination_` (Q = K M / P of the rows solved first),
    `module_` (the network on standardised features), `feature_scaling_`, `l2_`, `l2_choice_` (each c tried, its
    held-out loss and its evaluations, on at most 2500 rows; only where there was a choice).
    """

    classes_: NDArray[Any]

    _prior = 3.0
    _strengths = (100.0, 30.0, 10.0, 3.0, 1.0)
    _choice_from = 2000

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Go once over some rows by Adam in mini-batches of 200; the first call needs all `classes`.

        Features are standardised as in the first call. Afterwards `fit` with `warm_start` can finish the solve.
        """
        if not hasattr(self, "module_"):
            if classes is None:
                raise SettingError("classes", None, "the first partial_fit needs all of them", "give classes=[...]")
            self._announced = np.unique(column_or_1d(classes))
        elif classes is not None and not np.array_equal(np.unique(column_or_1d(classes)), self.classes_):
            raise SettingError("classes", list(classes), f"the first call had {self.classes_.tolist()}", "leave it out")
        return self._take_part(X, y, sample_weight)

    def predict_proba(self, X: Any) -> Floats:
        """Return class probabilities (n, classes)."""
        result: Floats = softmax(self._outputs(X), axis=1)
        return result

    def predict_log_proba(self, X: Any) -> Floats:
        """Return the logarithms of `predict_proba`."""
        outputs = self._outputs(X)
        shifted = outputs - outputs.max(axis=1, keepdims=True)
        result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return result

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable classes (n,)."""
        outputs = self._outputs(X)
        result: NDArray[Any] = self.classes_[outputs.argmax(axis=1)]
        return result

    def _checked(self, X: Any, y: Any, reset: bool = True) -> tuple[Any, NDArray[Any]]:
        shape = y.shape if hasattr(y, "shape") else np.asarray(y, dtype=object).shape
        if len(shape) == 2 and shape[1] > 1:
            remedy = "fit sklearn.multioutput.MultiOutputClassifier(SubsetClassifier()) for several"
            raise SettingError("y", tuple(shape), "has more than one column of labels", remedy)
        X, y = validated(self, X, y, reset=reset)
        try:
            check_classification_targets(y)
            np.unique(y if y.dtype == object else y[:0])
        except TypeError:  # of labels that have no order
            kinds = sorted({type(label).__name__ for label in np.ravel(y)})
            raise SettingError("y", kinds, "labels of several types", "give one type, such as y.astype(str)") from None
        return X, column_or_1d(y, warn=True)

    def _learn_targets(self, y: NDArray[Any], weights: Floats | None, continued: bool) -> NDArray[Any]:
        if not continued:
            announced = self.__dict__.pop("_announced", None)
            self.classes_ = np.unique(y) if announced is None else announced
            self._n_out = len(self.classes_)
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            known = f"is not among the classes {self.classes_.tolist()}"
            raise SettingError("y", unknown[:3].tolist(), known, "check the labels, or fit anew with warm_start=False")
        if len(self.classes_) < 2:
            raise SettingError("y", self.classes_.tolist(), "has one class, a classifier needs two", "check the labels")
        return np.searchsorted(self.classes_, y)
