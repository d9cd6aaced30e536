"""The preconditioner of a solver: the samples it is estimated on, how it is damped, what a checkpoint keeps of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from subsetopt.devices import moved
from subsetopt.errors import SettingError
from subsetopt.objective.protocol import ObjectivePart, Preconditioner, SampledObjective, SmoothObjective
from subsetopt.objective.tally import note_flops
from subsetopt.seeding import make_generator
from subsetopt.settings import setting

Operator = Callable[[Tensor], Tensor]

FACTOR = "factors."  # before the names of the preconditioner's tensors in a checkpoint


@dataclass
class Factors:
    """A preconditioner and what it knew after its last update, at iteration `updated`; never written into."""

    estimate: Preconditioner
    tensors: dict[str, Tensor]
    updated: int = -1

    def inverse(self, l2: float, damping: float) -> Operator:
        """Return v -> M⁻¹ v, M = F + (l2 + damping · scale) I, scale being the mean eigenvalue of the first F."""
        estimate, shift = self.estimate, l2 + damping * self.tensors["scale"]
        return lambda v: estimate.apply(v, shift)

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Split into tensors and numbers, as `PreconditionerSettings.restored` takes them."""
        return {FACTOR + name: tensor.clone() for name, tensor in self.tensors.items()}, {
            "factors_updated": self.updated
        }


@dataclass(frozen=True, kw_only=True)
class PreconditionerSettings:
    """Where the preconditioner comes from.

    `preconditioner`: K-FAC or diagonal factors from a random `factor_share` of the samples; M is their matrix plus L2
    plus a damping, `damping` times their mean eigenvalue at the start. Draws depend on (`seed`, iteration) alone: a
    resumed solve repeats them, and a step that the budget cut off has changed nothing.
    """

    preconditioner: Literal["none", "diagonal", "kfac"] = "none"
    factor_share: float = setting(0.0625, above=0, at_most=1)
    damping: float = setting(0.1, above=0)
    seed: int = setting(0, at_least=0)

    def require(self, objective: SmoothObjective) -> None:
        """Raise `SettingError` where `objective` has no samples or layers to take factors from."""
        self._require(objective, "preconditioner", "none")

    def factors(self, objective: SmoothObjective) -> Factors | None:
        """Return factors that have seen no samples yet; None where there is no preconditioner."""
        if self.preconditioner == "none":
            return None
        estimate = cast(SampledObjective, objective).preconditioner(self.preconditioner)
        return Factors(estimate, estimate.state_dict())

    def updated(self, objective: SmoothObjective, w: Tensor, iteration: int, factors: Factors) -> Factors:
        """Return factors that know w too, beside the scale of the very first ones: their mean eigenvalue."""
        estimate, scale = factors.estimate, factors.tensors.get("scale")
        # The state counts, not what the object went through in a step that the budget cut off.
        estimate.load_state_dict(factors.tensors)
        part = self.part(objective, self.factor_share, "factors", iteration)
        part.update(estimate, w, make_generator(self.seed, f"factor draws {iteration}"))
        if scale is None:
            if estimate.note:
                warnings.warn(estimate.note, stacklevel=2)
            bits = torch.randint(0, 2, w.shape, generator=make_generator(self.seed, "trace"))
            signs = moved(bits, w.device, w.dtype) * 2 - 1
            scale = torch.dot(signs, estimate.product(signs)) / len(w)
            note_flops(2 * len(w))
            # Saturated outputs have no curvature: M is a multiple of the identity then, and not zero.
            scale = torch.where(scale > 0, scale, 1.0)
        return Factors(estimate, {**estimate.state_dict(), "scale": scale}, iteration)

    def restored(
        self, objective: SmoothObjective, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
    ) -> Factors | None:
        """Rebuild what `Factors.save` split; None where nothing was."""
        factors = self.factors(objective)
        if factors is None or "factors_updated" not in numbers:
            return None
        known = {name.removeprefix(FACTOR): value for name, value in tensors.items() if name.startswith(FACTOR)}
        known = {name: value.clone() for name, value in known.items()}
        factors.estimate.load_state_dict(known)
        return Factors(factors.estimate, known, numbers["factors_updated"])

    def part(self, objective: SmoothObjective, share: float, name: str, iteration: int) -> ObjectivePart:
        """Return the samples that are drawn for `iteration` under that name."""
        return cast(SampledObjective, objective).part(share, make_generator(self.seed, f"{name} {iteration}"))

    def _require(self, objective: SmoothObjective, name: str, plain: object) -> None:
        value = getattr(self, name)
        if value != plain and not isinstance(objective, SampledObjective):
            raise SettingError(name, value, "a plain function has no samples or layers", f"use {name}={plain}")
