"""Early stopping of a first-order phase: the held-out loss, looked at now and then, and the best parameters kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.budget import Budget
from subsetopt.training.phases.stopping import HeldOutTest, MonitoredIterate
from subsetopt.training.run_model import RunModel
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData

CHECKS, CHECK_SHARE = 20, 0.05  # 20 checks per phase, fewer where they would take over 5 % of its cost


class HeldOutChecks:
    """A `HeldOutTest` that is due by cost, charged to "selection", and keeps BatchNorm's statistics with the best w."""

    def __init__(self, data: TrainingData, budget: Budget, model: RunModel) -> None:
        self._data, self._ledger, self._model = data, budget.ledger, model
        self.test = HeldOutTest(self._loss, every=1)
        self._interval = self._due = math.inf
        self._best_buffers: dict[str, Tensor] = {}

    @property
    def cost(self) -> float:
        """Epoch-equivalents of one check."""
        return self._ledger.price("forward", self._data.samples(SplitName.VALIDATION))

    def begin(self, affordable: float) -> None:
        """Plan the checks of a phase that may spend `affordable` epoch-equivalents."""
        self._interval = max(affordable / CHECKS, self.cost / CHECK_SHARE)
        self._due = self._ledger.cost + self._interval

    def check(self, iterate: MonitoredIterate, end: StopReason) -> StopReason | None:
        """Check where it is due, and return why to stop: `end` where the check cannot be paid. One synchronisation."""
        ledger, before = self._ledger, self.test.best_loss
        if ledger.cost < self._due:
            return None
        try:
            reason = self.test.check(iterate)
        except BudgetExhausted:
            return end
        if self.test.best_loss < before:
            self._best_buffers = self._model.flat.buffers()
        self._due = ledger.cost + self._interval
        return reason

    def choose(self, w: Tensor) -> Tensor:
        """Return `w` itself, or the best parameters checked, with the model's buffers set to match."""
        chosen = self.test.choose(w)
        if chosen is not w:
            self._model.flat.load_buffers(self._best_buffers)
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """Return the test's state, the buffers that belong to its best parameters, and when it is due."""
        plan = {"interval": self._interval, "due": self._due}
        return {"test": self.test.state_dict(), "buffers": self._best_buffers, **plan}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.test.load_state_dict(state_dict["test"])
        self._best_buffers = dict(state_dict["buffers"])
        self._interval, self._due = state_dict["interval"], state_dict["due"]

    def _loss(self, w: Tensor) -> float:
        return self._model.held_out_loss(self._data, w.detach())
