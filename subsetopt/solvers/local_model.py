"""The quadratic model that a Newton method minimises at w: products on all or a part of the samples, preconditioned.

The gradient is always that of all samples. Curvature converges with far fewer of them (Byrd, Chin, Neveitt & Nocedal
2011), so products and factors may take a random part, drawn anew at every w. Draws depend on (seed, iteration) alone:
a resumed solve repeats them, and a step that the budget cut off has changed nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from subsetopt.errors import SettingError
from subsetopt.objective.protocol import Linearisation, Part, Preconditioner, SampledObjective, SmoothObjective
from subsetopt.seeding import make_generator
from subsetopt.solvers.settings import setting

Operator = Callable[[Tensor], Tensor]


@dataclass
class Factors:
    """A preconditioner and what it knew after its last update, at iteration `updated`; never written into."""

    estimate: Preconditioner
    tensors: dict[str, Tensor]
    updated: int = -1


@dataclass(frozen=True)
class LocalModel:
    """Products with the curvature B and with the inverse of the preconditioner M (None: the identity)."""

    product: Operator
    inverse: Operator | None
    factors: Factors | None


@dataclass(frozen=True, kw_only=True)
class CurvatureSettings:
    """Where curvature comes from.

    `curvature`: the Hessian or the Gauss-Newton matrix, in products on a random `sample_share` of the samples.
    `preconditioner`: K-FAC or diagonal factors from a `factor_share` of them, estimated anew every `factor_interval`
    iterations; M is their matrix plus L2 plus a damping, `damping` times the mean curvature at the start, which
    grows and shrinks with the agreement of model and objective (Levenberg & Marquardt).
    """

    curvature: Literal["hessian", "ggn"] = "hessian"
    sample_share: float = setting(1.0, above=0, at_most=1)
    preconditioner: Literal["none", "diagonal", "kfac"] = "none"
    factor_share: float = setting(0.0625, above=0, at_most=1)
    factor_interval: int = setting(1, at_least=1)
    damping: float = setting(0.1, above=0)
    seed: int = setting(0, at_least=0)

    def require(self, objective: SmoothObjective) -> Factors | None:
        """Return empty factors; raises `SettingError` where `objective` has no samples or layers to take them from."""
        for name, plain in (("preconditioner", "none"), ("sample_share", 1.0)):
            value = getattr(self, name)
            if value != plain and not isinstance(objective, SampledObjective):
                raise SettingError(name, value, "a plain function has no samples or layers", f"use {name}={plain}")
        return self.factors(objective)

    def factors(self, objective: SmoothObjective) -> Factors | None:
        """Return factors that have seen no samples yet; None where there is no preconditioner."""
        if self.preconditioner == "none":
            return None
        estimate = cast(SampledObjective, objective).preconditioner(self.preconditioner)
        return Factors(estimate, estimate.state())

    def at(
        self, objective: SmoothObjective, w: Tensor, iteration: int, factors: Factors | None, damping: float
    ) -> LocalModel:
        """Return the model at w; the samples are drawn for `iteration`."""
        linearisation = self._linearise(objective, w, iteration)
        product = linearisation.hvp if self.curvature == "hessian" else linearisation.ggnvp
        if factors is None:
            return LocalModel(product, None, None)
        sampled = cast(SampledObjective, objective)
        if factors.updated < 0 or iteration >= factors.updated + self.factor_interval:
            factors = self._updated(sampled, w, iteration, factors)
        else:
            factors.estimate.load_state(factors.tensors)
        estimate = factors.estimate
        shift = sampled.l2 + damping * factors.tensors["scale"]
        return LocalModel(product, lambda v: estimate.apply(v, shift), factors)

    def _linearise(self, objective: SmoothObjective, w: Tensor, iteration: int) -> Linearisation:
        if self.sample_share == 1.0:
            return objective.linearise(w)
        return self._part(objective, self.sample_share, "products", iteration).linearise(w)

    def _updated(self, objective: SampledObjective, w: Tensor, iteration: int, factors: Factors) -> Factors:
        """Return factors that know w too, beside the scale of the very first ones: their mean eigenvalue."""
        estimate, scale = factors.estimate, factors.tensors.get("scale")
        if scale is None and estimate.note:
            warnings.warn(estimate.note, stacklevel=2)
        # The state counts, not what the object went through in a step that the budget cut off.
        estimate.load_state(factors.tensors)
        part = self._part(objective, self.factor_share, "factors", iteration)
        part.update(estimate, w, make_generator(self.seed, f"factor draws {iteration}"))
        if scale is None:
            signs = torch.randint(0, 2, w.shape, generator=make_generator(self.seed, "trace")).to(w) * 2 - 1
            scale = torch.dot(signs, estimate.product(signs)) / len(w)
        return Factors(estimate, {**estimate.state(), "scale": scale}, iteration)

    def _part(self, objective: SmoothObjective, share: float, name: str, iteration: int) -> Part:
        return cast(SampledObjective, objective).part(share, make_generator(self.seed, f"{name} {iteration}"))
