"""`SubsetRegressor`: least squares on standardised targets."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin

from subsetopt.sklearn.base import SubsetEstimator
from subsetopt.sklearn.rows import validated
from subsetopt.sklearn.scaling import Floats, Scaling


class SubsetRegressor(RegressorMixin, SubsetEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Multilayer perceptron for regression, one target or several, solved to a minimum by a second-order method.

    Parameters and fitted attributes are those of `SubsetClassifier`, without classes. Targets are standardised for the
    solve; the objective is the mean squared error in those units, as `loss_` reports it.
    """

    _flat_targets: bool
    target_scaling_: Scaling

    _prior = 10.0
    _strengths = (30.0, 10.0, 3.0, 1.0, 0.3)
    _choice_from = 50

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Go once over some rows by Adam in mini-batches of 200; scales are those of the first call's rows."""
        return self._take_part(X, y, sample_weight)

    def predict(self, X: Any) -> Floats:
        """Return the targets (n,), or (n, M) where `fit` had several columns, in the units of the data."""
        outputs = self._outputs(X)
        values = self.target_scaling_.undo(outputs)
        return values.ravel() if self._flat_targets else values

    def _checked(self, X: Any, y: Any, reset: bool = True) -> tuple[Any, NDArray[Any]]:
        X, y = validated(self, X, y, multi_output=True, y_numeric=True, reset=reset)
        return X, y.astype(np.float64)

    def _learn_targets(self, y: NDArray[Any], weights: Floats | None, continued: bool) -> NDArray[Any]:
        columns = y.reshape(len(y), -1)
        if not continued:
            self._flat_targets, self._n_out = y.ndim == 1, columns.shape[1]
            self.target_scaling_ = Scaling.of(columns, weights) if self.standardize else Scaling.none(columns.shape[1])
        return self.target_scaling_.apply(columns)

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: several targets are taken."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
