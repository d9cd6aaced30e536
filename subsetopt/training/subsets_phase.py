"""Several disjoint subsets, each solved from the same start, and what is made of their minima.

The solve of one subset is an ordinary `SolverPhase` on its own rows and knows nothing of the others: `subset_solve`
makes it from the workspace and its number alone, so that the solves may as well run on several devices. Here they run
one after the other, each with an equal part of what is left to spend. The average of minima from one start is the point
of Zhang, Duchi, Wainwright (2013), "Communication-efficient algorithms for statistical optimization".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from subsetopt.errors import SettingError
from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.minima import SubsetMinimum, join_minima
from subsetopt.training.phase_config import PhaseConfig
from subsetopt.training.phases import Outcome
from subsetopt.training.solver_phase import SolverPhase, SolverState
from subsetopt.training.workspace import Workspace


@dataclass
class SubsetsState:
    """The minima so far, and the solve that is under way: `current` None before its first evaluation.

    `start` (P,) is where every solve begins. `limit` is the ledger's for the whole phase, infinite without one.
    """

    start: Tensor
    limit: float
    current: SolverState | None = None
    done: list[SubsetMinimum] = field(default_factory=list)
    exhausted: bool = False


def subset_solve(workspace: Workspace, config: PhaseConfig, index: int) -> SolverPhase:
    """Return the solve of subset `index` (from 0) of `config.subsets`, which depends on nothing else."""
    rows = workspace.disjoint_subsets(config.subsets)[index]
    single = config.model_copy(update={"subsets": 1, "subsets_then": "average", "subsets_select": "auto"})
    return SolverPhase(single, workspace.with_subset(rows))


def solve_subset(workspace: Workspace, config: PhaseConfig, index: int, w: Tensor) -> SubsetMinimum:
    """Solve subset `index` from w (P,) to its end and return the minimum."""
    phase = subset_solve(workspace, config, index)
    state = phase.start(w)
    while phase.terminate(state) is None:
        try:
            state = phase.step(state)
        except BudgetExhausted:
            return finished(phase, state, StopReason.BUDGET)
    return finished(phase, state, phase.terminate(state) or StopReason.BUDGET)


def finished(phase: SolverPhase, state: SolverState, reason: StopReason) -> SubsetMinimum:
    """Return the minimum that a solve ended with, for `reason`."""
    progress, (w, loss, gradient_norm) = phase.record(state), phase.finish(state)
    return SubsetMinimum(
        w.detach().clone(),
        {
            "samples": phase.samples,
            "stop_reason": str(reason),
            "converged": reason.converged,
            "loss": loss,
            "gradient_norm": gradient_norm,
            "iterations": progress["iteration"],
            "evaluations": progress["evaluations"],
            "products": progress["products"],
        },
    )


class SubsetsPhase:
    """Solves `config.subsets` disjoint subsets and hands on the average of their minima, or the best of them."""

    def __init__(self, config: PhaseConfig, workspace: Workspace) -> None:
        if config.subsets_select == "validation" and not workspace.dataset.validation:
            raise SettingError("subsets_select", "validation", "needs held-out data", "use subsets_select = train")
        self.config = config
        self._workspace = workspace
        self._union = workspace.for_phase(config)
        self._solves = [subset_solve(workspace, config, index) for index in range(config.subsets)]
        # Built before the training, so that what building them costs cannot overrun its budget at the end.
        self._judges = (self._union.objective("subset"), workspace.objective("full"))
        self._joined: dict[str, Any] = {}

    @property
    def samples(self) -> int:
        """All samples of all subsets."""
        return sum(solve.samples for solve in self._solves)

    @property
    def title(self) -> str:
        """For the progress bar."""
        return f"{self.config.method} on {self.config.subsets} x {self._solves[0].samples} samples"

    def start(self, w: Tensor) -> SubsetsState:
        """Begin the first solve."""
        state = SubsetsState(w.detach().clone(), self._workspace.ledger.limit)
        self._open(state)
        state.current = self._solves[0].start(state.start)
        return state

    def step(self, state: SubsetsState) -> SubsetsState:
        """Take one iteration of the current solve; where that is at its end, begin the next one."""
        solve = self._solves[len(state.done)]
        try:
            if state.current is None:
                self._open(state)
                state.current = solve.start(state.start)
            elif solve.terminate(state.current) is None:
                state.current = solve.step(state.current)
            reason = solve.terminate(state.current)
        except BudgetExhausted:
            reason = StopReason.BUDGET
        if reason is None:
            return state
        self._workspace.ledger.limit = state.limit
        if state.current is None:
            state.exhausted = True
        else:
            state.done.append(finished(solve, state.current, reason))
            state.current = None
        return state

    def terminate(self, state: SubsetsState) -> StopReason | None:
        """Stop when all are solved, or the cost is spent; converged means that every one of them is."""
        if state.exhausted:
            return StopReason.BUDGET
        if len(state.done) < self.config.subsets:
            return None
        reasons = [StopReason(minimum.record["stop_reason"]) for minimum in state.done]
        joined = StopReason.JOINED if self.config.subsets_then == "average" else reasons[0]
        return next((reason for reason in reasons if not reason.converged), joined)

    def record(self, state: SubsetsState) -> dict[str, Any]:
        """Progress over all solves; loss and gradient are those of the current one."""
        solve = self._solves[min(len(state.done), self.config.subsets - 1)]
        last = {**state.done[-1].record, "iteration": 0, "evaluations": 0, "products": 0} if state.done else {}
        now = solve.record(state.current) if state.current is not None else last
        totals = {
            name: sum(minimum.record[many] for minimum in state.done) + now.get(name, 0)
            for name, many in (("iteration", "iterations"), ("evaluations", "evaluations"), ("products", "products"))
        }
        solved = len(state.done) + (now.get("fraction") or 0.0)
        return {
            "loss": now.get("loss"),
            "gradient_norm": now.get("gradient_norm"),
            **totals,
            "fraction": solved / self.config.subsets,
        }

    def iterate(self, state: SubsetsState) -> Tensor:
        """Return the iterate of the current solve."""
        if state.current is None:
            return state.done[-1].w if state.done else state.start
        return self._solves[len(state.done)].iterate(state.current)

    def details(self) -> dict[str, Any]:
        """The solver's settings, and `subsets`: every minimum, their average and the best, compared."""
        return {"settings": self.config.settings, "subsets": self._joined}

    def finish(self, state: SubsetsState) -> Outcome:
        """Compare the minima, a solve cut short by its own iterate, and return the one to hand on."""
        if state.current is not None:
            solve = self._solves[len(state.done)]
            state.done.append(finished(solve, state.current, StopReason.BUDGET))
            state.current = None
        w, self._joined = join_minima(self._workspace, self._union, self.config, state.done)
        loss, gradient = self._judges[0].value_and_gradient(w, "evaluation")
        self._union.refresh_batch_norm(w, "subset")
        return Outcome(w, float(loss), float(gradient.abs().max()))

    def save(self, state: SubsetsState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The minima found, and the state of the solve under way."""
        tensors = {"start": state.start} | {f"done/{i}": minimum.w for i, minimum in enumerate(state.done)}
        numbers: dict[str, Any] = {
            "limit": None if math.isinf(state.limit) else state.limit,
            "exhausted": state.exhausted,
            "done": [minimum.record for minimum in state.done],
            "current": None,
        }
        if state.current is not None:
            inner, numbers["current"] = self._solves[len(state.done)].save(state.current)
            tensors |= {f"current/{name}": tensor for name, tensor in inner.items()}
        return tensors, numbers

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> SubsetsState:
        """Rebuild all without evaluating."""
        device = self._workspace.device
        limit = math.inf if numbers["limit"] is None else numbers["limit"]
        done = [SubsetMinimum(tensors[f"done/{i}"].to(device), dict(r)) for i, r in enumerate(numbers["done"])]
        state = SubsetsState(tensors["start"].to(device), limit, None, done, numbers["exhausted"])
        if numbers["current"] is not None:
            inner = {k.removeprefix("current/"): v for k, v in tensors.items() if k.startswith("current/")}
            state.current = self._solves[len(done)].restore(inner, numbers["current"])
        return state

    def _open(self, state: SubsetsState) -> None:
        """Let the next solve spend an equal part of what is left."""
        ledger = self._workspace.ledger
        left = self.config.subsets - len(state.done)
        if not math.isinf(state.limit):
            ledger.limit = ledger.cost + (state.limit - ledger.cost) / left
