"""Tests that end a subset solve before its gradient vanishes: sampling noise, and held-out loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from subsetopt.errors import SettingError
from subsetopt.objective.host import host_read
from subsetopt.objective.noise import MINIMUM_CHUNKS
from subsetopt.objective.tally import note_flops
from subsetopt.solvers.protocol import State, StopReason


class MonitoredIterate(Protocol):
    """What a held-out test needs to know of a state."""

    w: Tensor
    iterations: int


class StopTest(Protocol):
    """Checks each new iterate. A test is created per phase and holds what it has seen."""

    def check(self, state: State) -> StopReason | None:
        """Return why to stop after this iterate, or None."""

    def choose(self, w: Tensor) -> Tensor:
        """Return the parameters to keep when the phase ends at `w`."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and JSON-able numbers."""

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""


def check_noise_test(samples: int, batch_dependent: bool, name: str) -> None:
    """Raise `SettingError` where `samples` are too few for the test by sampling noise, which `name` has asked for."""
    least = MINIMUM_CHUNKS * (2 if batch_dependent else 1)  # BatchNorm normalises by two samples at least
    if samples < least:
        beside = " with BatchNorm" if batch_dependent else ""
        problem = f"needs at least {least} samples{beside}, a subset has {samples}"
        raise SettingError(name, "noise", problem, "use larger subsets, or stop by validation")


class MinimumTest:
    """No test beside the solver's own gradient test."""

    def check(self, state: State) -> StopReason | None:
        """Never stop."""
        return None

    def choose(self, w: Tensor) -> Tensor:
        """Keep the last iterate."""
        return w

    def state_dict(self) -> dict[str, Any]:
        """Nothing to save."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Nothing to restore."""


@dataclass
class NoiseTest(MinimumTest):
    """Stop when `||g||^2 <= theta * tr(cov g_i) / K`: the subset's gradient is lost in its own sampling noise.

    Byrd, Chin, Nocedal, Wu (2012), "Sample size selection in optimization methods for machine learning", eq. 3.3, with
    theta = 0.1 by our measurement (theta = 1 stops far too early). `noise()` gives `tr(cov g_i) / K` at the last
    accepted point, from the chunk gradients.
    """

    gradient: Callable[[State], Tensor]
    noise: Callable[[], Tensor]
    theta: float = 0.1

    def check(self, state: State) -> StopReason | None:
        """Compare gradient and noise; one host synchronisation."""
        gradient = self.gradient(state).double()
        note_flops(2 * gradient.numel())
        squared_norm, noise = host_read(torch.stack([gradient @ gradient, self.noise()]))
        return StopReason.NOISE if squared_norm <= self.theta * noise else None


@dataclass
class HeldOutTest:
    """Stop when the held-out loss has not improved for `patience` checks, and keep the best parameters checked."""

    held_out_loss: Callable[[Tensor], float]
    every: int = 3
    patience: int = 6
    best_loss: float = float("inf")
    checks_without_gain: int = 0
    best_w: Tensor | None = field(default=None, repr=False)

    def check(self, state: MonitoredIterate) -> StopReason | None:
        """Check at every `every`-th iterate."""
        if state.iterations % self.every:
            return None
        loss = self.held_out_loss(state.w)
        if loss < self.best_loss:
            self.best_loss, self.best_w, self.checks_without_gain = loss, state.w.detach().clone(), 0
        else:
            self.checks_without_gain += 1
        return StopReason.VALIDATION if self.checks_without_gain >= self.patience else None

    def choose(self, w: Tensor) -> Tensor:
        """Keep the parameters with the lowest held-out loss, the final ones included."""
        if self.best_w is None or self.held_out_loss(w) <= self.best_loss:
            return w
        return self.best_w

    def state_dict(self) -> dict[str, Any]:
        """Return the best parameters and the counters."""
        return {name: getattr(self, name) for name in ("best_w", "best_loss", "checks_without_gain")}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.best_w = state_dict.get("best_w")
        self.best_loss, self.checks_without_gain = state_dict["best_loss"], state_dict["checks_without_gain"]
