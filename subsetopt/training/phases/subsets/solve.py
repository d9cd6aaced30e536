"""The solve of one of several disjoint subsets, which knows nothing of the others and can be done anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.budget import Budget
from subsetopt.training.context import RunContext
from subsetopt.training.ledger import Ledger
from subsetopt.training.phases.solver import SolverPhase, SolverState
from subsetopt.training.phases.subsets.minima import SubsetMinimum
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.training_data import TrainingData


class SubsetSolve:
    """An ordinary `SolverPhase` on the rows of subset `index` (from 0) of `config.subsets`, without other ranks.

    It charges a ledger of its own, so that what it may spend does not depend on when, where and beside which others it
    is done; the caller enters its `charges` elsewhere. `state` is None before the first evaluation.
    """

    def __init__(self, config: PhaseConfig, data: TrainingData, budget: Budget, run: RunContext, index: int) -> None:
        rows = data.disjoint_subsets(config.subsets)[index]
        # Pairs spread over ranks would need the other ranks in every iteration.
        settings = {name: value for name, value in config.settings.items() if name != "shard_memory"}
        alone = {"subsets": 1, "subsets_then": "average", "subsets_select": "auto", "settings": settings}
        single = config.model_copy(update=alone)
        self._ledger = Ledger(data.full_size, budget.ledger.prices)
        self._entered = self._ledger.counts()
        # A scale of its own, too: it must not depend on which subset this process has solved before.
        own = Budget(self._ledger, budget.clock)
        self.phase = SolverPhase(single, data.with_subset(rows), own, run.alone(self._ledger))
        self.state: SolverState | None = None

    def advance(self, start: Tensor, allowance: float) -> StopReason | None:
        """Begin at `start` (P,) with `allowance` epoch-equivalents to spend, or take one iteration; say why it ends."""
        try:
            if self.state is None:
                self._ledger.open_phase(allowance)
                self.state = self.phase.start(start)
            elif self.phase.terminate(self.state) is None:
                self.state = self.phase.step(self.state)
        except BudgetExhausted:
            return StopReason.BUDGET
        return self.phase.terminate(self.state)

    def progress(self) -> dict[str, Any]:
        """Return the phase's record of the current state."""
        return self.phase.record(self._begun)

    def end(self, reason: StopReason) -> SubsetMinimum:
        """Return what the solve, at its end for `reason`, has found."""
        self._ledger.open_phase(None)  # what finishes a solve is never cut off
        progress, (w, loss, gradient_norm) = self.progress(), self.phase.finish(self._begun)
        self.state = None
        return SubsetMinimum(
            w.detach().clone(),
            {
                "samples": self.phase.samples,
                "stop_reason": str(reason),
                "converged": reason.converged,
                "loss": loss,
                "gradient_norm": gradient_norm,
                "iterations": progress["iteration"],
                "evaluations": progress["evaluations"],
                "products": progress["products"],
            },
        )

    def charges(self) -> list[int]:
        """Return the `Ledger.counts` of all work since the last call."""
        before, self._entered = self._entered, self._ledger.counts()
        return [now - then for now, then in zip(self._entered, before, strict=True)]

    def save(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the state of a solve that has begun."""
        tensors, numbers = self.phase.save(self._begun)
        return tensors, {"phase": numbers, "ledger": self._ledger.save()}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Take back what `save` returned, without evaluating; all of its charges are entered elsewhere."""
        self.state = self.phase.restore(tensors, numbers["phase"])
        self._ledger.restore(numbers["ledger"])
        self.charges()

    @property
    def _begun(self) -> SolverState:
        assert self.state is not None, "the solve has begun"
        return self.state
