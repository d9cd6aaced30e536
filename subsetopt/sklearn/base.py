"""What both estimators share: standardisation, the network, the solve and what is kept of it.

The model is `Linear -> activation -> ... -> Linear` on standardised features. Its objective is the weighted mean loss
plus l2/2 ||w||^2 (scikit-learn's `alpha` of an MLP is l2 x rows, and leaves biases out), over all rows, or first over
a random subset and then, from its minimum and with its curvature pairs, over all rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import _check_sample_weight, check_is_fitted
from torch import Tensor, nn

from subsetopt.errors import SettingError
from subsetopt.overdetermination import overdetermination_ratio
from subsetopt.sklearn.network import Network
from subsetopt.sklearn.online import BATCH, OnlinePass
from subsetopt.sklearn.penalty import choose
from subsetopt.sklearn.perceptron import objective_of
from subsetopt.sklearn.rows import Rows, counting, dense, first_rows, hold_out, validated
from subsetopt.sklearn.scaling import Floats, Scaling
from subsetopt.sklearn.settings import check_parameters, drawn_seed, hidden_widths, resolved_device, working_dtype
from subsetopt.sklearn.solve import HeldOut, Solve
from subsetopt.solvers import SolveResult, StopReason
from subsetopt.solvers.continuation import extrapolated

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
    _learnt_nothing: bool  # the last fit ended at about constant outputs
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

        `sample_weight` (n,) are weights w_i of the mean loss sum w_i l_i / sum w_i. Whole numbers count rows: 2 is a
        row twice. Of other weights only the ratios matter.
        Raises `ValueError` for data and settings that cannot be used; warns with `ConvergenceWarning` where `max_iter`
        ends the solve.
        """
        check_parameters(self.get_params(deep=False))
        X, y = self._checked(X, y)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        X, y, weights = counting(dense(X), y, weights)
        continued = self.warm_start and hasattr(self, "module_")
        if continued:
            self._require_same(X)
        if not continued:
            self.feature_scaling_ = Scaling.of(X, weights) if self.standardize else Scaling.none(X.shape[1])
        targets = self._learn_targets(y, weights, continued)
        self._solve(Rows(self.feature_scaling_.apply(X), targets, weights), continued)
        return self

    def _require_same(self, X: Floats) -> None:
        """Raise `SettingError` for data or settings that the network of the last fit cannot go on with."""
        before = tuple(bias.numel() for bias in list(self.module_.parameters())[1::2][:-1])
        made = getattr(self, "_made", {"activation": self.activation, "standardize": self.standardize})
        pairs = {
            "hidden_layer_sizes": (hidden_widths(self.hidden_layer_sizes), before),
            **{name: (getattr(self, name), value) for name, value in made.items()},
        }
        for name, (now, then) in pairs.items():
            if now != then:
                raise SettingError(name, now, f"the fit to go on from had {then!r}", "fit anew with warm_start=False")
        features = len(self.feature_scaling_.mean)
        if X.shape[1] != features:
            raise SettingError(
                "X", X.shape, f"the fit to go on from had {features} features", "fit anew with warm_start=False"
            )

    @property
    def loss_(self) -> float:
        """The objective at the parameters found, on the rows of the last stage or the last `partial_fit`."""
        check_is_fitted(self)
        return float(self.result_.loss) if hasattr(self, "result_") else self.loss_curve_[-1]

    def _penalty(self, rows: Rows) -> float:
        """Return `l2`; "auto" is a prior of one strength, whose part falls as rows (by weight) come in."""
        return getattr(self, "_strength", self._prior) / rows.total if self.l2 == "auto" else float(self.l2)

    def _checked(self, X: Any, y: Any, reset: bool = True) -> tuple[Any, NDArray[Any]]:
        """Return X and y as scikit-learn checks them; sets `n_features_in_` and `feature_names_in_`."""
        raise NotImplementedError

    def _take_part(self, X: Any, y: Any, sample_weight: Any) -> Self:
        """Go once over some rows by Adam; standardisation is that of the first call (see `partial_fit`)."""
        check_parameters(self.get_params(deep=False))
        first = not hasattr(self, "module_")
        X, y = self._checked(X, y, reset=first)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        X, y, weights = counting(dense(X), y, weights)
        if not first:
            self._require_same(X)
        seed = drawn_seed(self.random_state)
        if first:
            self.feature_scaling_ = Scaling.of(X, weights) if self.standardize else Scaling.none(X.shape[1])
        targets = self._learn_targets(y, weights, not first)
        rows = Rows(self.feature_scaling_.apply(X), targets, weights)
        if first:
            network = self._network(rows, seed)
            self.module_ = network.module(network.start)
            self.loss_curve_, self.n_iter_, self._pass = [], 0, OnlinePass()
        if not hasattr(self, "_pass"):
            self._pass = OnlinePass()
        self.l2_ = self._penalty(rows)
        network = self._last_network()
        sample = rows.sample(network)
        order = torch.from_numpy(np.random.default_rng((seed, self.n_iter_)).permutation(len(X)))
        objectives = [objective_of(network, sample.take(batch), self.l2_) for batch in order.split(BATCH)]
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

    def _solve(self, rows: Rows, continued: bool) -> None:
        seed = drawn_seed(self.random_state)
        network = self._last_network() if continued else self._network(rows, seed)
        held_out = None
        if self.early_stopping:
            rows, held_out = hold_out(rows, self.validation_fraction, seed)
        solve = self._prepared(network, rows, seed, continued)
        stages = self._stages(rows, seed, continued)
        self.overdetermination_ = overdetermination_ratio(network.size, len(stages[0]), self._n_out)
        result = None
        for stage in stages:
            if result is not None and solve.done >= self.max_iter:
                break
            if stage is rows and held_out is not None:
                solve.held_out = HeldOut(_judge(network, held_out), self.n_iter_no_change)
            result = solve.stage(objective_of(network, stage.sample(network), self.l2_), last=stage is rows)
        assert result is not None
        self.module_ = network.module(result.x)
        self.result_, self.n_iter_ = result, max(1, solve.done)
        self.loss_curve_ = solve.losses
        self._trace = [*(self._trace if continued else []), (self.l2_, result.x)][-2:] if self.warm_start else []
        self._learnt_nothing = rows.learnt_nothing(solve.data_loss(result))
        self._curvature, self._scale = solve.curvature if self.warm_start else None, solve.scale
        if solve.held_out is not None:
            self.validation_losses_ = solve.held_out.losses
        if result.stop_reason is StopReason.MAX_ITERATIONS:
            warnings.warn(
                f"stopped at max_iter={self.max_iter} before the gradient test; use a larger max_iter or gtol",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _prepared(self, network: Network, rows: Rows, seed: int, continued: bool) -> Solve:
        """Return the solve, from the last fit, from the choice of a penalty, or from scratch; sets `l2_`."""
        solve = Solve(self.solver, self.gtol, self.max_iter, network.start, 0.0, keeps=self.warm_start)
        if continued:
            solve.curvature, solve.scale = getattr(self, "_curvature", None), getattr(self, "_scale", None)
            if getattr(self, "_learnt_nothing", False) and self._penalty(rows) < self.l2_:
                solve.w, solve.curvature, self._trace = self._network(rows, seed).start.to(network.dtype), None, ()
        else:
            for stale in ("_strength", "l2_choice_"):
                self.__dict__.pop(stale, None)
            chosen = self.l2 == "auto" and not self.early_stopping and len(rows) >= self._choice_from
            choice = choose(solve, network, rows, self._strengths, seed) if chosen else None
            if choice is not None:
                self.l2_choice_, self._strength = choice.tried, choice.strength
                solve.w, solve.curvature, solve.scale = choice.w, choice.curvature, choice.scale
        solve.l2 = self.l2_ = self._penalty(rows)
        solve.guess = self._extrapolated() if continued else None
        return solve

    def _stages(self, rows: Rows, seed: int, continued: bool) -> list[Rows]:
        """Return the rows of each stage; raises `SettingError` for a subset too small."""
        share = self.subset_frac
        if share == "auto":
            share = AUTO_SHARE if len(rows) >= MANY_ROWS and not hasattr(self, "l2_choice_") else 1.0
        return [rows] if share == 1 or continued else [first_rows(rows, float(share), seed), rows]

    def _network(self, rows: Rows, seed: int) -> Network:
        widths = (rows.X.shape[1], *hidden_widths(self.hidden_layer_sizes), self._n_out)
        dtype = working_dtype(self.dtype, len(rows), widths)
        self._made = {"activation": self.activation, "standardize": self.standardize}
        return Network.drawn(widths, self.activation, seed, dtype, resolved_device(self.device))

    def _last_network(self) -> Network:
        dtype = None if self.dtype == "auto" else getattr(torch, self.dtype)
        return Network.of(self.module_, self.activation, resolved_device(self.device), dtype)

    def _extrapolated(self) -> Tensor | None:
        """Return where the minima of the last two penalties point to for this one, linearly in log l2."""
        return extrapolated(self._trace, self.l2_)

    def _outputs(self, X: Any) -> Floats:
        """Return the network's outputs (n, M) for raw rows, float64."""
        check_is_fitted(self)
        X = dense(validated(self, X, reset=False))
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


def _judge(network: Network, rows: Rows) -> Callable[[Tensor], float]:
    objective = objective_of(network, rows.sample(network), 0.0)
    return lambda w: float(objective.value(w, "selection"))
