"""What both estimators share: standardisation, the network, the solve and what is kept of it.

The model is `Linear -> activation -> ... -> Linear` on standardised features. Its objective is the weighted mean loss
plus l2/2 ||w||^2 (scikit-learn's `alpha` of an MLP is l2 x rows, and leaves biases out), over all rows, or first over
a random subset and then, from its minimum and with its curvature pairs, over all rows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn

from subsetopt.data.subset import draw
from subsetopt.errors import SettingError
from subsetopt.overdetermination import overdetermination_ratio
from subsetopt.sklearn.network import Network
from subsetopt.sklearn.online import BATCH, OnlinePass
from subsetopt.sklearn.penalty import HELD_OUT, ROWS, Choice, choose
from subsetopt.sklearn.perceptron import Sample, objective_of
from subsetopt.sklearn.scaling import Floats, Scaling
from subsetopt.sklearn.settings import check_parameters, hidden_widths, resolved_device, working_dtype
from subsetopt.sklearn.solve import HeldOut, Solve
from subsetopt.solvers import SolveResult, StopReason

MANY_ROWS = 20_000  # from here on `subset_frac="auto"` solves a tenth of the rows first
AUTO_SHARE = 0.1
BLOCK = 2**22  # numbers in the widest layer that a prediction holds at once


class SubsetEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """See `SubsetClassifier` and `SubsetRegressor`."""

    module_: nn.Module
    feature_scaling_: Scaling
    result_: SolveResult
    loss_curve_: list[float]
    n_iter_: int
    l2_: float
    _n_out: int
    _prior: float  # l2 "auto" is this many times 1 / rows
    _strengths: tuple[float, ...]  # or one of these many, from so many rows on
    _choice_from: int
    _trace: Sequence[tuple[float, Tensor]] = ()  # the last two penalties of warm starts, and their minima

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "tanh",
        *,
        solver: str = "lbfgs",
        l2: float | str = "auto",
        subset_frac: float | str = "auto",
        gtol: float = 3e-4,
        max_iter: int = 200,
        standardize: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        warm_start: bool = False,
        dtype: str = "auto",
        device: str = "cpu",
        random_state: Any = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.l2 = l2
        self.subset_frac = subset_frac
        self.gtol = gtol
        self.max_iter = max_iter
        self.standardize = standardize
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.dtype = dtype
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Solve the network on rows X (n, D) and targets y to the gradient test; return the estimator.

        `sample_weight` (n,) are weights w_i of the mean loss sum w_i l_i / sum w_i; a weight of 2 is a row twice.
        Raises `ValueError` for data and settings that cannot be used; warns with `ConvergenceWarning` where `max_iter`
        ends the solve.
        """
        check_parameters(self.get_params(deep=False))
        X, y = self._checked(X, y)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        X, y, weights = _counting(_dense(X), y, weights)
        continued = self.warm_start and hasattr(self, "module_")
        if continued and X.shape[1] != len(self.feature_scaling_.mean):
            raise SettingError(
                "X",
                X.shape,
                f"the fit to go on from had {len(self.feature_scaling_.mean)} features",
                "set warm_start=False",
            )
        if not continued:
            self.feature_scaling_ = Scaling.of(X, weights) if self.standardize else Scaling.none(X.shape[1])
        targets = self._learn_targets(y, weights, continued)
        self._solve(self.feature_scaling_.apply(X), targets, weights, continued)
        return self

    @property
    def loss_(self) -> float:
        """The objective at the parameters found, on the rows of the last stage or the last `partial_fit`."""
        check_is_fitted(self)
        return float(self.result_.loss) if hasattr(self, "result_") else self.loss_curve_[-1]

    def _penalty(self, weights: Floats | None, rows: int) -> float:
        """Return `l2`; "auto" is a prior of one strength, whose part falls as rows (by weight) come in."""
        total = float(rows if weights is None else weights.sum())
        return getattr(self, "_strength", self._prior) / total if self.l2 == "auto" else float(self.l2)

    def _checked(self, X: Any, y: Any, reset: bool = True) -> tuple[Any, NDArray[Any]]:
        """Return X and y as scikit-learn checks them; sets `n_features_in_` and `feature_names_in_`."""
        raise NotImplementedError

    def _take_part(self, X: Any, y: Any, sample_weight: Any) -> Self:
        """Go once over some rows by Adam; standardisation is that of the first call (see `partial_fit`)."""
        check_parameters(self.get_params(deep=False))
        first = not hasattr(self, "module_")
        X, y = self._checked(X, y, reset=first)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        X, y, weights = _counting(_dense(X), y, weights)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if first:
            self.feature_scaling_ = Scaling.of(X, weights) if self.standardize else Scaling.none(X.shape[1])
        targets = self._learn_targets(y, weights, not first)
        if first:
            widths = hidden_widths(self.hidden_layer_sizes)
            network = self._network(X, widths, seed)
            self.module_ = network.module(network.start)
            self.loss_curve_, self.n_iter_, self._pass = [], 0, OnlinePass()
        if not hasattr(self, "_pass"):
            self._pass = OnlinePass()
        self.l2_ = self._penalty(weights, len(X))
        network = Network.of(self.module_, self.activation, resolved_device(self.device))
        sample = self._sample(network, self.feature_scaling_.apply(X), targets, weights)
        order = torch.from_numpy(np.random.default_rng((seed, self.n_iter_)).permutation(len(X)))
        objectives = [objective_of(network, sample.take(rows), self.l2_) for rows in order.split(BATCH)]
        w = self._pass.over(objectives, network.start)
        self.module_ = network.module(w)
        self.n_iter_ += 1
        self.loss_curve_.append(float(objective_of(network, sample, self.l2_).value(w)))
        for stale in ("result_", "overdetermination_"):
            self.__dict__.pop(stale, None)
        return self

    def _learn_targets(self, y: NDArray[Any], weights: Floats | None, continued: bool) -> NDArray[Any]:
        """Return class numbers (n,) or standardised targets (n, M); sets what undoes it and `n_outputs_`."""
        raise NotImplementedError

    def _strata(self, targets: NDArray[Any]) -> NDArray[Any] | None:
        """Return the classes by which subsets and held-out rows are drawn."""
        return None

    def _solve(self, X: Floats, targets: NDArray[Any], weights: Floats | None, continued: bool) -> None:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        widths = hidden_widths(self.hidden_layer_sizes)
        network = (
            Network.of(self.module_, self.activation, resolved_device(self.device))
            if continued
            else self._network(X, widths, seed)
        )
        X, targets, weights, held_out_rows = self._hold_out(X, targets, weights, seed)
        choice = None if continued else self._choice(network, X, targets, weights, seed)
        if choice is not None:
            self.l2_choice_, self._strength = choice.tried, choice.strength
        self.l2_ = self._penalty(weights, len(X))
        previous = getattr(self, "_curvature", None) if continued else None
        solve = Solve(self.solver, self.gtol, self.max_iter, network.start, self.l2_, curvature=previous)
        solve.keeps = self.warm_start
        solve.guess = self._extrapolated() if continued else None
        solve.scale = getattr(self, "_scale", None) if continued else None
        if choice is not None:
            solve.w, solve.curvature, solve.scale = choice.w, choice.curvature, choice.scale
        rows = self._subset(X, targets, seed, continued or (choice is not None and self.subset_frac == "auto"))
        everything = self._sample(network, X, targets, weights)
        first = len(X) if rows is None else len(rows)
        self.overdetermination_ = overdetermination_ratio(network.size, first, self._n_out)
        result = None
        for stage in (*(() if rows is None else (rows,)), None):
            if result is not None and solve.done >= self.max_iter:
                break
            if stage is None and held_out_rows is not None:
                solve.held_out = self._watch(network, *held_out_rows)
            sample = everything if stage is None else everything.take(stage)
            objective = objective_of(network, sample, self.l2_)
            result = solve.stage(objective, last=stage is None)
        assert result is not None
        self.module_ = network.module(result.x)
        self.result_, self.n_iter_ = result, max(1, solve.done)
        self.loss_curve_ = solve.losses
        self._trace = [*(self._trace if continued else []), (self.l2_, result.x)][-2:] if self.warm_start else []
        self._curvature, self._scale = solve.curvature if self.warm_start else None, solve.scale
        if solve.held_out is not None:
            self.validation_losses_ = solve.held_out.losses
        if result.stop_reason is StopReason.MAX_ITERATIONS:
            warnings.warn(
                f"stopped at max_iter={self.max_iter} before the gradient test; use a larger max_iter or gtol",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _network(self, X: Floats, hidden: tuple[int, ...], seed: int) -> Network:
        widths = (X.shape[1], *hidden, self._n_out)
        dtype = working_dtype(self.dtype, len(X), widths)
        return Network.drawn(widths, self.activation, seed, dtype, resolved_device(self.device))

    def _choice(
        self, network: Network, X: Floats, targets: NDArray[Any], weights: Floats | None, seed: int
    ) -> Choice | None:
        """Return the choice of the strength of `l2="auto"` by held-out rows, None where it is fixed."""
        self.__dict__.pop("_strength", None)
        self.__dict__.pop("l2_choice_", None)
        if self.l2 != "auto" or self.early_stopping or len(X) < self._choice_from:
            return None
        strata = self._strata(targets)
        few = draw(len(X), size=min(len(X), ROWS), seed=seed, stratify=strata)
        kept = draw(
            len(few), fraction=1 - HELD_OUT, seed=seed, stratify=None if strata is None else strata[few.numpy()]
        )
        others = torch.ones(len(few), dtype=torch.bool)
        others[kept] = False
        sample = self._sample(network, X, targets, weights)
        return choose(
            network,
            sample.take(few[kept]),
            sample.take(few[others]),
            self._strengths,
            self.solver,
            self.gtol,
            self.max_iter,
        )

    def _extrapolated(self) -> Tensor | None:
        """Return where the minima of the last two penalties point to for this one, linearly in log l2."""
        if len(self._trace) < 2 or min(self.l2_, *(l2 for l2, _ in self._trace)) <= 0:
            return None
        (before, w0), (last, w1) = self._trace
        if before == last:
            return None
        return w1 + (w1 - w0) * min(1.0, math.log(self.l2_ / last) / math.log(last / before))

    def _hold_out(
        self, X: Floats, targets: NDArray[Any], weights: Floats | None, seed: int
    ) -> tuple[Floats, NDArray[Any], Floats | None, tuple[Floats, NDArray[Any], Floats | None] | None]:
        if not self.early_stopping:
            return X, targets, weights, None
        kept, held = train_test_split(
            np.arange(len(X)), test_size=self.validation_fraction, random_state=seed, stratify=self._strata(targets)
        )
        first, second = (
            (X[rows], targets[rows], None if weights is None else weights[rows]) for rows in (np.sort(kept), held)
        )
        return *first, second

    def _watch(self, network: Network, X: Floats, targets: NDArray[Any], weights: Floats | None) -> HeldOut:
        held_out = objective_of(network, self._sample(network, X, targets, weights), 0.0)
        return HeldOut(lambda w: float(held_out.value(w, "selection")), self.n_iter_no_change)

    def _sample(self, network: Network, X: Floats, targets: NDArray[Any], weights: Floats | None) -> Sample:
        inputs = torch.from_numpy(X).to(network.device, network.dtype)
        aims = torch.from_numpy(np.ascontiguousarray(targets)).to(network.device)
        aims = aims.to(network.dtype) if aims.is_floating_point() else aims
        return Sample(inputs, aims, None if weights is None else torch.from_numpy(weights).to(network.device))

    def _subset(self, X: Floats, targets: NDArray[Any], seed: int, continued: bool) -> Tensor | None:
        """Return the rows of the first stage, None where it has all; raises `SettingError` for a subset too small."""
        share = self.subset_frac
        if share == "auto":
            share = AUTO_SHARE if len(X) >= MANY_ROWS else 1.0
        if share == 1 or continued:
            return None
        try:
            return draw(len(X), fraction=float(share), seed=seed, stratify=self._strata(targets))
        except SettingError as error:
            problem = f"leaves too few of {len(X)} rows: {error.problem}"
            raise SettingError("subset_frac", share, problem, "use a larger one, or 'auto'") from None

    def _outputs(self, X: Any) -> Floats:
        """Return the network's outputs (n, M) for raw rows, float64."""
        check_is_fitted(self)
        X = _dense(validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False))
        weight = next(self.module_.parameters())
        rows = max(1, BLOCK // max(X.shape[1], self._n_out, *hidden_widths(self.hidden_layer_sizes), 1))
        parts = []
        with torch.no_grad():
            for start in range(0, len(X), rows):
                scaled = torch.from_numpy(self.feature_scaling_.apply(X[start : start + rows]))
                parts.append(self.module_(scaled.to(weight.dtype)).double().numpy())
        return np.concatenate(parts)

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether there is a fitted network."""
        return hasattr(self, "module_")

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: sparse matrices are taken, and made dense."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _dense(X: Any) -> Floats:
    return np.ascontiguousarray(cast(Any, X).toarray() if sparse.issparse(X) else X, dtype=np.float64)


def _counting(X: Floats, y: NDArray[Any], weights: Floats | None) -> tuple[Floats, NDArray[Any], Floats | None]:
    """Return the rows without those of weight 0, so that these take no part in classes, subsets and scales."""
    if weights is None:
        return X, y, None
    rows = weights > 0
    if not rows.any():
        raise SettingError("sample_weight", "0 everywhere", "leaves no row to fit", "give at least one positive weight")
    return X[rows], y[rows], weights[rows].astype(np.float64)
