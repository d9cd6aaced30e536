"""From the phases that a configuration lists to the objects that run them."""

from __future__ import annotations

from subsetopt.errors import SettingError, setting, unknown_name
from subsetopt.samplers import SAMPLERS
from subsetopt.solvers import SOLVERS
from subsetopt.training.budget import Budget
from subsetopt.training.checks.affordable import check_budgets, within_budget
from subsetopt.training.context import RunContext
from subsetopt.training.phases.drawn.checks import start_of_draws
from subsetopt.training.phases.drawn.phase import DrawnPhase
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS
from subsetopt.training.phases.first_order.phase import FirstOrderPhase
from subsetopt.training.phases.l2_path.phase import L2PathPhase
from subsetopt.training.phases.methods import METHODS
from subsetopt.training.phases.protocol import Phase
from subsetopt.training.phases.solver import SolverPhase, solver_of
from subsetopt.training.phases.subsets.phase import SubsetsPhase
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.training_data import TrainingData


def build_phases(data: TrainingData, budget: Budget, run: RunContext, *, may_idle: bool = False) -> list[Phase]:
    """Build and check every phase before the first one starts; raises `UserError` for what would fail later.

    With `may_idle` a phase may be too dear for its budget: that is a finding where methods are compared at equal cost.
    """
    config, handoffs = run.config, ("none", "full", *OPTIMIZERS.names)
    known = config.handoff in handoffs or config.handoff in OPTIMIZERS or config.handoff in SAMPLERS
    if not known and (config.handoff in SOLVERS or config.handoff in METHODS):
        remedy = f"use {setting('handoff', 'full')} with {setting('handoff_solver', config.handoff)}"
        raise SettingError("handoff", config.handoff, "is a solver", remedy)
    if not known:
        raise unknown_name("handoff", config.handoff, [*handoffs, *(entry.name for entry in SAMPLERS)])
    with within_budget(config):
        phases = [_build_phase(phase, data, budget, run, index) for index, phase in enumerate(config.phases())]
    if any(map(_makes_products, config.phases())):
        _ = budget.ledger.prices["hvp"]  # counted now, not in the midst of the training
    if not may_idle:
        check_budgets(budget, config, phases)
    return phases


def _makes_products(config: PhaseConfig) -> bool:
    """Return whether the phase may make curvature products, whose prices are dear to count."""
    if config.first_order:
        return False
    if config.method in METHODS and config.draw == "uniform":
        return METHODS.get(config.method).makes_products
    return bool(getattr(solver_of(config), "makes_products", True))


def _build_phase(config: PhaseConfig, data: TrainingData, budget: Budget, run: RunContext, index: int) -> Phase:
    if config.draw != "uniform" and not config.first_order:
        return DrawnPhase(config, data, budget, run)
    if config.method in METHODS:
        own = data if config.streaming else data.for_phase(config)
        return METHODS.get(config.method).phase(config, own, budget, run, index)
    if config.subsets > 1 and config.subsets_then != "together":
        return SubsetsPhase(config, data, budget, run)
    own = data.for_phase(config)
    if config.l2_path:
        return L2PathPhase(config, own, budget, run)
    if config.first_order:
        config = config if config.draw == "uniform" else start_of_draws(config, own.full_size)
        return FirstOrderPhase(config, own, budget, run, index)
    return SolverPhase(config, own, budget, run)
