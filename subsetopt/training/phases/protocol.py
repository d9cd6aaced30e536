"""A phase: a method on some data until a stop. The loop knows this protocol and nothing of the methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from subsetopt.documents.run import LossOf
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.settings.phase import PhaseConfig


class PhaseOutcome(NamedTuple):
    """What a phase hands on: parameters, and the training loss and max|g| of exactly these (None if unknown)."""

    w: Tensor
    loss: float | None
    gradient_norm: float | None


class Phase(Protocol):
    """Started with parameters, stepped until `terminate` gives a reason, finished with parameters."""

    config: PhaseConfig

    @property
    def samples(self) -> int:
        """Number of samples this phase trains on."""

    @property
    def title(self) -> str:
        """A few words for a progress bar, e.g. `lbfgs on 6000 samples`."""

    @property
    def loss_of(self) -> LossOf:
        """What the recorded loss is: reports say it from this, and name no method."""

    @property
    def least_cost(self) -> float:
        """Epoch-equivalents that the first step takes at least, with what comes before it and is kept for the end."""

    @property
    def fixed_length(self) -> str | None:
        """Why the phase cannot go on under a larger limit than it began with; None where it can."""

    def start(self, w: Tensor) -> Any:
        """Return the initial state at parameters w."""

    def step(self, state: Any) -> Any:
        """Take one iteration (or a fixed number of mini-batch steps)."""

    def terminate(self, state: Any) -> StopReason | None:
        """Return why to stop, or None."""

    def record(self, state: Any) -> dict[str, Any]:
        """Return iteration, loss, gradient_norm, evaluations, products and fraction of the limit (None if unknown)."""

    def iterate(self, state: Any) -> Tensor:
        """Return the parameters where the phase now is, BatchNorm's statistics set to fit them."""

    def details(self) -> dict[str, Any]:
        """Return what the report says of a finished phase beside the common record."""

    def finish(self, state: Any) -> PhaseOutcome:
        """Return the parameters that the phase hands on, with their loss and gradient norm."""

    def save(self, state: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Split the state into tensors and JSON-able numbers, exactly."""

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Any:
        """Rebuild the state, bit for bit."""
