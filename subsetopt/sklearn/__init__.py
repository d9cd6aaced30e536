"""scikit-learn estimators: networks solved to a certified minimum, on a subset first where the rows are many."""

from subsetopt.sklearn.classifier import SubsetClassifier
from subsetopt.sklearn.l2_path import L2Path, SubsetClassifierCV, SubsetRegressorCV, l2_path
from subsetopt.sklearn.regressor import SubsetRegressor

__all__ = ["L2Path", "SubsetClassifier", "SubsetClassifierCV", "SubsetRegressor", "SubsetRegressorCV", "l2_path"]
