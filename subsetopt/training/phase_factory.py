"""From the phases that a configuration lists to the objects that run them."""

from __future__ import annotations

from subsetopt.errors import SettingError, unknown_name
from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.samplers import SAMPLERS
from subsetopt.training.first_order import FirstOrderPhase
from subsetopt.training.phase_config import FIRST_ORDER, PhaseConfig
from subsetopt.training.phases import Phase
from subsetopt.training.solver_phase import SolverPhase
from subsetopt.training.stream_phase import StreamPhase
from subsetopt.training.subsets_phase import SubsetsPhase
from subsetopt.training.workspace import Workspace


def build_phases(workspace: Workspace) -> list[Phase]:
    """Build and check every phase before the first one starts; raises `UserError` for what would fail later."""
    config, handoffs = workspace.config, ("none", "full", *FIRST_ORDER)
    if config.handoff not in handoffs and config.handoff not in SAMPLERS:
        raise unknown_name("handoff", config.handoff, [*handoffs, *(entry.name for entry in SAMPLERS)])
    try:
        return [_build_phase(phase, workspace, index) for index, phase in enumerate(config.phases())]
    except BudgetExhausted:
        problem = (
            f"does not cover the checks before the first step, {workspace.ledger.cost:.3g} epoch-equivalents so far"
        )
        raise SettingError("max_epochs", config.max_epochs, problem, "use more, for example 1") from None


def _build_phase(config: PhaseConfig, workspace: Workspace, index: int) -> Phase:
    if config.streaming:
        return StreamPhase(config, workspace, index)
    if config.subsets > 1 and config.subsets_then != "together":
        return SubsetsPhase(config, workspace)
    workspace = workspace.for_phase(config)
    return FirstOrderPhase(config, workspace, index) if config.first_order else SolverPhase(config, workspace)
