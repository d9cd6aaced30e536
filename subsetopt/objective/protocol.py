"""The contract between whoever computes losses and whoever minimises them.

A solver sees only `SmoothObjective`; `Objective` (a model on data) and `FunctionObjective` (a plain torch function)
both fulfil it. All parameters travel as one flat vector w of shape (P,).
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Literal, Protocol

import torch
from torch import Tensor

Purpose = Literal["train", "line_search", "product", "selection", "calibration", "evaluation"]
CallKind = Literal["forward", "gradient", "linearise", "hvp", "ggnvp"]


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
