"""Points at which a loss raises, taken for points at which it is infinite: a search steps back from them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from subsetopt.arguments import kind_of
from subsetopt.errors import SettingError
from subsetopt.objective.arithmetic import accumulation_dtype
from subsetopt.objective.protocol import Purpose, SampledObjective, SmoothObjective
from subsetopt.objective.wrapped import WrappedObjective, WrappedSamples

Kinds = tuple[type[Exception], ...]


class FeasibleObjective(WrappedObjective):
    """`inner`, which is infinite where it raises one of `kinds`, or what was raised because of one."""

    def __init__(self, inner: SmoothObjective, kinds: Kinds) -> None:
        self.inner, self._kinds = inner, kinds

    def value(self, w: Tensor, purpose: Purpose = "train") -> Tensor:
        """Return f(w), infinity where it raises."""
        try:
            return self.inner.value(w, purpose)
        except Exception as error:
            self._require_infeasible(error)
            return self._infinity()

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        """Return f(w) and its gradient; infinity and NaN where it raises."""
        try:
            return self.inner.value_and_gradient(w, purpose)
        except Exception as error:
            self._require_infeasible(error)
            return self._infinity(), torch.full_like(w, math.nan)

    def _require_infeasible(self, error: Exception) -> None:
        if not isinstance(error, self._kinds) and not isinstance(error.__cause__, self._kinds):
            raise error

    def _infinity(self) -> Tensor:
        return torch.full((), math.inf, dtype=accumulation_dtype(self.device), device=self.device)


class FeasibleSamples(FeasibleObjective, WrappedSamples):
    """The same of an objective over samples."""

    inner: SampledObjective


def feasible(objective: SmoothObjective, kinds: Any) -> SmoothObjective:
    """Return `objective`, infinite where it raises one of `kinds`; raises `SettingError` for what are no exceptions."""
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    for kind in kinds:
        if not isinstance(kind, type) or not issubclass(kind, Exception):
            raise SettingError(
                "infeasible",
                kind_of(kind),
                "is no kind of exception",
                "give a tuple, as in (torch.linalg.LinAlgError,)",
            )
    if not kinds:
        return objective
    return (FeasibleSamples if isinstance(objective, SampledObjective) else FeasibleObjective)(objective, kinds)
