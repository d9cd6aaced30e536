"""Go back into a phase that a limit ended, to go on under a larger one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from subsetopt.errors import UserError
from subsetopt.saving import without_copies
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.context import PreparedRun
from subsetopt.training.phases.protocol import Phase
from subsetopt.training.position import Position

LIMITS = (StopReason.MAX_ITERATIONS, StopReason.MAX_EVALUATIONS, StopReason.BUDGET)


def reopen(position: Position, prepared: PreparedRun, phases: Sequence[Phase]) -> None:
    """Go back into the phase that a limit ended, under the limits of now; everything spent so far counts.

    Raises `UserError` where no full-batch solver was stopped by a limit at the end, or its limit is no larger now.
    """
    budget, held = prepared.budget, position.held
    if position.state is not None:
        phase, start = phases[len(position.snapshots)], position.phase_start
        if phase.fixed_length is not None:
            raise _not_reopened(f"the run is in a phase of {phase.config.method}: {phase.fixed_length}")
    elif held is None:
        raise _not_reopened(_why_complete(position, phases))
    else:
        phase, start = phases[held.index], held.start
        prepared.run.model.flat.load_buffers(position.snapshots[held.index].buffers)
        del position.snapshots[held.index :]
        position.phase_start, position.held = start, None
        spent = budget.ledger.save()
        with without_copies():
            position.state = phase.restore(held.tensors, held.numbers)
        budget.ledger.restore(spent)  # rebuilding an objective charges a calibration that was paid before
    begin = (0.0, 0.0) if phase.config.cumulative else start
    epochs = phase.config.epochs
    budget.ledger.limit = min(budget.ledger.budget, math.inf if epochs is None else begin[0] + epochs)
    budget.clock.open_phase(begin[1], phase.config.seconds)
    left = budget.ledger.limit - budget.ledger.cost
    if phase.terminate(position.state) is not None or left < budget.ledger.price("gradient", phase.samples):
        raise _not_reopened(f"the limits leave no room for another iteration of {phase.config.method}")


def _why_complete(position: Position, phases: Sequence[Phase]) -> str:
    """Return why a larger limit changes nothing where no state of a solver was kept."""
    last, record = phases[len(position.snapshots) - 1], position.snapshots[-1].record
    limited = record["stop_reason"] in (*map(str, LIMITS), StopReason.SCHEDULE_END)
    if limited and last.fixed_length is not None:
        return f"its last phase was {last.config.method}: {last.fixed_length}"
    return f"no solver that was stopped by a limit ended the run (its last phase ended by {record['stop_reason']})"


def _not_reopened(problem: str) -> UserError:
    remedy = "raise the limit that ended it, or start a new run from its model: `subsetopt train --init-from RUN`"
    return UserError(f"resume with another limit: {problem}; {remedy}")
