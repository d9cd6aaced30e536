"""What all phases of a run share besides its data and its budget."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from subsetopt.distributed import Ranks
from subsetopt.training.budget import Budget
from subsetopt.training.carry import CarriedCurvature
from subsetopt.training.ledger import Ledger
from subsetopt.training.loss_scale import LossScale
from subsetopt.training.run_model import RunModel
from subsetopt.training.settings.run import RunConfig
from subsetopt.training.training_data import TrainingData


@dataclass
class RunContext:
    """The settings and the model of a run, its ranks, and what one phase leaves to the next.

    `warnings` are shown and kept in result.json; `carried` is the curvature handed on by a stage of growing subsets;
    `scale` is the size of the loss in which all gradient tests are made.
    """

    config: RunConfig
    model: RunModel
    ranks: Ranks = field(default_factory=Ranks)
    warnings: list[str] = field(default_factory=list)
    carried: CarriedCurvature = field(default_factory=CarriedCurvature)
    scale: LossScale = field(default_factory=LossScale)

    def alone(self, ledger: Ledger) -> RunContext:
        """Return the context of a solve by this process alone, charged to `ledger`, in a loss scale of its own."""
        ranks = Ranks()
        return replace(self, model=self.model.charged_to(ledger, ranks), ranks=ranks, scale=LossScale())


class PreparedRun(NamedTuple):
    """What a run works on, built and checked: `data, budget, run = prepare(config)`."""

    data: TrainingData
    budget: Budget
    run: RunContext
