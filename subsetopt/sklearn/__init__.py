"""scikit-learn estimators: networks solved to a certified minimum, on a subset first where the rows are many."""

from subsetopt.sklearn.classifier import SubsetClassifier
from subsetopt.sklearn.regressor import SubsetRegressor

__all__ = ["SubsetClassifier", "SubsetRegressor"]
