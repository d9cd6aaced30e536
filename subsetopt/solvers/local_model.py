"""The quadratic model that a Newton method minimises at w: products on all or a part of the samples, preconditioned.

The gradient is always that of all samples. Curvature converges with far fewer of them (Byrd, Chin, Neveitt & Nocedal
2011), so products and factors may take a random part, drawn anew at every w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor

from subsetopt.objective.protocol import Linearisation, SampledObjective, SmoothObjective
from subsetopt.settings import setting
from subsetopt.solvers.factors import Factors, Operator, PreconditionerSettings


@dataclass(frozen=True)
class LocalModel:
    """Products with the curvature B and with the inverse of the preconditioner M (None: the identity)."""

    product: Operator
    inverse: Operator | None
    factors: Factors | None


@dataclass(frozen=True, kw_only=True)
class CurvatureSettings(PreconditionerSettings):
    """Where curvature comes from.

    `curvature`: the Hessian or the Gauss-Newton matrix, in products on a random `sample_share` of the samples. Factors
    of the preconditioner are estimated anew every `factor_interval` iterations, and their damping grows and shrinks
    with the agreement of model and objective (Levenberg & Marquardt).
    """

    curvature: Literal["hessian", "ggn"] = "hessian"
    sample_share: float = setting(1.0, above=0, at_most=1)
    factor_interval: int = setting(1, at_least=1)

    def require(self, objective: SmoothObjective) -> None:
        """Raise `SettingError` where `objective` has no samples to take curvature from."""
        super().require(objective)
        self._require(objective, "sample_share", 1.0)

    def at(
        self, objective: SmoothObjective, w: Tensor, iteration: int, factors: Factors | None, damping: float
    ) -> LocalModel:
        """Return the model at w; the samples are drawn for `iteration`."""
        linearisation = self._linearise(objective, w, iteration)
        product = linearisation.hvp if self.curvature == "hessian" else linearisation.ggnvp
        if factors is None:
            return LocalModel(product, None, None)
        if factors.updated < 0 or iteration >= factors.updated + self.factor_interval:
            factors = self.updated(objective, w, iteration, factors)
        else:
            factors.estimate.load_state_dict(factors.tensors)
        return LocalModel(product, factors.inverse(cast(SampledObjective, objective).l2, damping), factors)

    def _linearise(self, objective: SmoothObjective, w: Tensor, iteration: int) -> Linearisation:
        if self.sample_share == 1.0:
            return objective.linearise(w)
        return self.part(objective, self.sample_share, "products", iteration).linearise(w)
