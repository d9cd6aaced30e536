"""Which rows take part in a fit, with which weights, which are held out, and what is said of unusable ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import validate_data

from subsetopt.data.subset import draw
from subsetopt.errors import SettingError
from subsetopt.sklearn.network import Network
from subsetopt.sklearn.perceptron import Sample
from subsetopt.sklearn.scaling import Floats

NOTHING = 0.98  # of the loss of constant outputs
LARGEST_COUNT = 2.0**53  # above it floats hold no consecutive whole numbers


@dataclass(frozen=True)
class Rows:
    """Features (n, D) as the network takes them, classes (n,) or numbers (n, M), and weights (n,) or None."""

    X: Floats
    targets: NDArray[Any]
    weights: Floats | None

    def __len__(self) -> int:
        """Return n."""
        return len(self.X)

    @property
    def total(self) -> float:
        """The sum of the weights, n where there are none."""
        return float(len(self) if self.weights is None else self.weights.sum())

    @property
    def strata(self) -> NDArray[Any] | None:
        """The classes by which subsets and held-out rows are drawn."""
        return None if self.targets.dtype.kind == "f" else self.targets

    def learnt_nothing(self, loss: float) -> bool:
        """Whether `loss`, without a penalty, is about that of the best constant outputs.

        Parameters near 0, to which a strong penalty leads, are a saddle point of a weaker one: no place to go on from.
        """
        shares = (np.ones(len(self)) if self.weights is None else self.weights) / self.total
        if self.strata is not None:
            frequencies = np.bincount(self.strata, shares)
            frequencies = frequencies[frequencies > 0]
            constant = -float(frequencies @ np.log(frequencies))
        else:
            constant = float((shares @ np.square(self.targets - shares @ self.targets)).mean())
        return loss > NOTHING * constant

    def take(self, rows: Any) -> Rows:
        """Return these rows."""
        return Rows(self.X[rows], self.targets[rows], None if self.weights is None else self.weights[rows])

    def sample(self, network: Network) -> Sample:
        """Return them on the device of `network`."""
        inputs = torch.from_numpy(self.X).to(network.device, network.dtype)
        targets = torch.from_numpy(np.ascontiguousarray(self.targets)).to(network.device)
        targets = targets.to(network.dtype) if targets.is_floating_point() else targets
        weights = None if self.weights is None else torch.from_numpy(self.weights).to(network.device)
        return Sample(inputs, targets, weights)


def validated(estimator: Any, X: Any, *y: Any, **settings: Any) -> Any:
    """Return what scikit-learn's `validate_data` does; for gaps and words in X, say in one line what to do."""
    try:
        return validate_data(estimator, X, *y, accept_sparse="csr", dtype=np.float64, **settings)
    except ValueError as error:
        text = str(error)
        if text.startswith("Input X contains NaN"):
            remedy = (
                "impute first: make_pipeline(SimpleImputer(add_indicator=True), ...), see subsetopt guide estimators"
            )
            raise SettingError("X", "NaN", "has gaps", remedy) from error
        if text.startswith("could not convert string") and _has_words(X):
            word = text.partition(": ")[2].removeprefix("np.str_(").removesuffix(")").strip("'")
            remedy = "encode first: make_pipeline(OneHotEncoder(), ...), see subsetopt guide estimators"
            raise SettingError("X", word, "is no number", remedy) from error
        raise


def _has_words(X: Any) -> bool:
    return not sparse.issparse(X) and np.asarray(X).dtype.kind in "OUS"


def dense(X: Any) -> Floats:
    """Return X as a float64 array, row by row in memory."""
    return np.ascontiguousarray(cast(Any, X).toarray() if sparse.issparse(X) else X, dtype=np.float64)


def counting(X: Floats, y: NDArray[Any], weights: Floats | None) -> tuple[Floats, NDArray[Any], Floats | None]:
    """Return the rows without those of weight 0, so that these take no part in classes, subsets and scales.

    Whole numbers say how often a row is there. Of other weights only the ratios count: their mean becomes 1, so that a
    penalty that depends on the number of rows does not depend on the unit of the weights.
    """
    if weights is None:
        return X, y, None
    rows = weights > 0
    if not rows.any():
        raise SettingError("sample_weight", "0 everywhere", "leaves no row to fit", "give at least one positive weight")
    left = weights[rows].astype(np.float64)
    if (left != np.floor(left)).any() or left.max() > LARGEST_COUNT:
        left /= left.max()
        left /= left.mean()
    return X[rows], y[rows], left


def hold_out(rows: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """Return the rows to fit, in their order, and those that `early_stopping` looks at; each class is among both.

    Raises `SettingError` where the rows are too few for that.
    """
    n, strata = len(rows), rows.strata
    held = math.ceil(fraction * n)
    counts = np.array([n]) if strata is None else np.unique(strata, return_counts=True)[1]
    if counts.min() < 2 or held < len(counts) or n - held < len(counts):
        parts = "both parts need a row" if strata is None else "both parts need a row of each class"
        raise SettingError(
            "early_stopping",
            True,
            f"cannot hold out validation_fraction = {fraction:g} of {n} rows, {parts}",
            "set early_stopping=False, or another validation_fraction",
        )
    kept, held_out = train_test_split(np.arange(n), test_size=fraction, random_state=seed, stratify=strata)
    return rows.take(np.sort(kept)), rows.take(held_out)


def first_rows(rows: Rows, share: float, seed: int) -> Rows:
    """Return `share` of the rows, to be solved first; raises `SettingError` where these are too few."""
    try:
        return rows.take(draw(len(rows), fraction=share, seed=seed, stratify=rows.strata).numpy())
    except SettingError as error:
        problem = f"leaves too few of {len(rows)} rows: {error.problem}"
        raise SettingError("subset_frac", share, problem, "use a larger one, or 'auto'") from None
