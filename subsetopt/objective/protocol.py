"""The contract between whoever computes losses and whoever minimises them.

A solver sees only `SmoothObjective`; `Objective` (a model on data) and `FunctionObjective` (a plain torch function)
both fulfil it. All parameters travel as one flat vector w of shape (P,).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from subsetopt.inputs import Inputs
from subsetopt.objective.sharding import SampleShare

Purpose = Literal[
    "train", "line_search", "product", "arithmetic", "selection", "augmentation", "calibration", "evaluation"
]
CallKind = Literal["forward", "gradient", "linearise", "hvp", "ggnvp", "flops"]
"""Calls of the model; "flops" are a method's own operations, as many as there are "samples" (see `flops.py`)."""


class Meter(Protocol):
    """Whatever counts model calls; the cost ledger of a run is one. Called *before* the work is done."""

    def charge(self, kind: CallKind, samples: int, purpose: Purpose) -> None:
        """Charge one call over `samples` samples; may raise `BudgetExhausted`, and then the call is not made."""


class BudgetExhausted(Exception):  # noqa: N818 (an event, not an error)
    """Raised by a meter when the next call would overrun the budget; the solve keeps its last good state."""


class Linearisation(Protocol):
    """Curvature products at one fixed w, cheap to call repeatedly. `v` and the results have shape (P,)."""

    def hvp(self, v: Tensor) -> Tensor:
        """Return the Hessian-vector product H v."""

    def ggnvp(self, v: Tensor) -> Tensor:
        """Return the generalised Gauss-Newton product G v; raises `UserError` where there is no model output."""


class SmoothObjective(Protocol):
    """A deterministic, twice differentiable function of a flat parameter vector."""

    @property
    def size(self) -> int:
        """P, the number of parameters."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of w and of gradients."""

    @property
    def device(self) -> torch.device:
        """The device of w and of gradients."""

    @property
    def identity(self) -> Hashable:
        """Changes exactly when the function changes; a solver that sees another identity drops its curvature."""

    def initial(self) -> Tensor:
        """Return a fresh copy of the starting point, shape (P,)."""

    def value(self, w: Tensor, purpose: Purpose = "train") -> Tensor:
        """Return the loss at w as a float64 scalar tensor on the device (no host synchronisation)."""

    def value_and_gradient(self, w: Tensor, purpose: Purpose = "train") -> tuple[Tensor, Tensor]:
        """Return (loss, gradient): a float64 scalar tensor and a new tensor of shape (P,), without synchronising."""

    def linearise(self, w: Tensor) -> Linearisation:
        """Prepare curvature products at w."""


class Preconditioner(Protocol):
    """A symmetric positive semidefinite estimate F of the Gauss-Newton matrix whose damped inverse is cheap."""

    @property
    def note(self) -> str:
        """Which parameters the estimate does not know the curvature of, in one line; empty where it knows all."""

    def update(
        self,
        w: Tensor,
        x: Inputs,
        y: Tensor,
        generator: torch.Generator,
        meter: Meter | None = None,
        share: SampleShare | None = None,
    ) -> None:
        """Take in an estimate at w on some samples, charged to `meter`; changes nothing where that raises.

        With `share` the samples are those of several ranks, of which this one has a part.
        """

    def apply(self, v: Tensor, damping: float | Tensor) -> Tensor:
        """Return (F + damping I)⁻¹ v, shape (P,)."""

    def product(self, v: Tensor) -> Tensor:
        """Return F v, shape (P,)."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return tensors from which `load_state_dict` goes on bit for bit; updates do not write into them."""

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` returned."""


class ObjectivePart(Protocol):
    """Some samples of an objective."""

    def linearise(self, w: Tensor) -> Linearisation:
        """Prepare curvature products at w of the mean loss over these samples, plus the objective's L2 term."""

    def update(self, preconditioner: Preconditioner, w: Tensor, generator: torch.Generator) -> None:
        """Let `preconditioner` take in an estimate at w on these samples, charged as the objective's calls are."""


@runtime_checkable
class SampledObjective(SmoothObjective, Protocol):
    """An objective over samples and layers, which plain functions are not: curvature from a part of the samples."""

    @property
    def l2(self) -> float:
        """The strength of the L2 term, which `Preconditioner` estimates leave out."""

    def part(self, share: float, generator: torch.Generator) -> ObjectivePart:
        """Return a random part of the samples, drawn from `generator`."""

    def preconditioner(self, kind: str) -> Preconditioner:
        """Return a preconditioner of the kind, "kfac" or "diagonal", that has seen no samples yet."""
