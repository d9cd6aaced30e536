"""Strategies that have a phase of their own, besides solvers and first-order optimizers.

A strategy is a package of this folder, one `__init__.py` at least. Imports no torch: settings are read before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from subsetopt.registry import Registry

if TYPE_CHECKING:
    from subsetopt.training.budget import Budget
    from subsetopt.training.context import RunContext
    from subsetopt.training.phases.protocol import Phase
    from subsetopt.training.settings.phase import PhaseConfig
    from subsetopt.training.training_data import TrainingData


class Strategy:
    """What `--solver NAME` and `method = NAME` of a phase mean where NAME is a strategy.

    A "stream" takes fresh mini-batches of the full training set, one step on each, until its cost is spent; by default
    that is `epochs` epoch-equivalents. A "full-batch" strategy runs on subset or full set, as a solver does. One that
    never `makes_products` of the loss's curvature needs no prices of them, whose count takes time and memory.
    """

    kind: ClassVar[Literal["stream", "full-batch"]]
    epochs: ClassVar[float | None] = None
    makes_products: ClassVar[bool] = True

    @classmethod
    def phase(cls, config: PhaseConfig, data: TrainingData, budget: Budget, run: RunContext, index: int) -> Phase:
        """Return the phase; `index` is its place in the run. Raises `UserError` for what would fail later."""
        raise NotImplementedError

    @classmethod
    def settings(cls) -> type[Any] | None:
        """Return the dataclass of the strategy's settings, for its card; None where it has none."""
        return None


METHODS: Registry[type[Strategy]] = Registry(
    "strategy", "subsetopt.training.phases", group="subsetopt.methods", packages_only=True
)


def is_stream(name: str) -> bool:
    """Return whether `name` is a strategy that takes fresh mini-batches of the full training set."""
    return name in METHODS and METHODS.get(name).kind == "stream"
