"""Several disjoint subsets, each solved from the same start, and what is made of their minima.

The solves are dealt out: rank r of R has subsets r, r + R, ... and works on them one after the other, without the other
ranks. They keep step, by one iteration of each rank's current solve per step of the phase, after which all ranks are
informed of the progress and cost of each; a minimum is sent to all as soon as it is found. So ranks wait for one
another here and in the loop alone, as in any phase, and all hold the same state but for the solves under way. The
average of minima from one start is the point of Zhang, Duchi, Wainwright (2013), "Communication-efficient algorithms
for statistical optimization".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from subsetopt.documents.run import LossOf
from subsetopt.errors import SettingError, setting
from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.saving import under
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.budget import Budget
from subsetopt.training.context import RunContext
from subsetopt.training.phases.protocol import PhaseOutcome
from subsetopt.training.phases.subsets.minima import SubsetMinimum, join_minima
from subsetopt.training.phases.subsets.solve import SubsetSolve
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData

TOTALS = {"iteration": "iterations", "evaluations": "evaluations", "products": "products"}


@dataclass
class SubsetsState:
    """The minima found and the progress of the solves under way, by number of the subset; the same on all ranks.

    `start` (P,) is where every solve begins. `allowance` is what each may spend, in epoch-equivalents: an equal part of
    the phase's, infinite without a limit. `exhausted`: it does not admit one evaluation.
    """

    start: Tensor
    allowance: float
    done: dict[int, SubsetMinimum] = field(default_factory=dict)
    progress: dict[int, dict[str, Any]] = field(default_factory=dict)
    exhausted: bool = False


class SubsetsPhase:
    """Solves `config.subsets` disjoint subsets and hands on the average of their minima, or the best of them."""

    def __init__(self, config: PhaseConfig, data: TrainingData, budget: Budget, run: RunContext) -> None:
        if config.subsets_select == "validation" and not data.samples(SplitName.VALIDATION):
            raise SettingError(
                "subsets_select", "validation", "needs held-out data", f"use {setting('subsets_select', 'train')}"
            )
        self.config = config
        self._data, self._budget, self._run, self._model = data, budget, run, run.model
        self._ranks = run.ranks
        self._union = data.for_phase(config)
        own = range(self._ranks.rank, config.subsets, self._ranks.size)
        self._solves = {index: SubsetSolve(config, data, budget, run, index) for index in own}
        # Built before the training, so that what building them costs cannot overrun its budget at the end.
        self._judges = (run.model.objective(self._union, SplitName.SUBSET), run.model.objective(data, SplitName.TRAIN))
        self._joined: dict[str, Any] = {}

    @property
    def samples(self) -> int:
        """All samples of all subsets."""
        return self._union.samples(SplitName.SUBSET)

    @property
    def loss_of(self) -> LossOf:
        """The objective of the subset that is being solved."""
        return LossOf.ONE_SUBSET

    @property
    def title(self) -> str:
        """For the progress bar."""
        return f"{self.config.method} on {self.config.subsets} x {self.samples // self.config.subsets} samples"

    @property
    def least_cost(self) -> float:
        """The evaluation at the start, and one at the end of a first step, of every solve."""
        return self._budget.ledger.price("gradient", 2 * self.samples)

    @property
    def fixed_length(self) -> str | None:
        """The states of finished solves are not kept, only their minima."""
        return f"each of its {self.config.subsets} solves ended with its own part of the limit"

    def start(self, w: Tensor) -> SubsetsState:
        """Begin the first solve of each rank."""
        ledger = self._budget.ledger
        state = SubsetsState(w.detach().clone(), (ledger.limit - ledger.cost) / self.config.subsets)
        self._round(state, partial(self._advance, state))
        if state.exhausted:
            raise BudgetExhausted
        return state

    def step(self, state: SubsetsState) -> SubsetsState:
        """Take one iteration of the current solve of each rank; where the last one is at its end, begin the next."""
        self._round(state, partial(self._advance, state))
        return state

    def terminate(self, state: SubsetsState) -> StopReason | None:
        """Stop when all are solved, or the cost is spent; converged means that every one of them is."""
        if state.exhausted:
            return StopReason.BUDGET
        if len(state.done) < self.config.subsets:
            return None
        reasons = [StopReason(state.done[index].record["stop_reason"]) for index in sorted(state.done)]
        joined = StopReason.JOINED if self.config.subsets_then == "average" else reasons[0]
        return next((reason for reason in reasons if not reason.converged), joined)

    def record(self, state: SubsetsState) -> dict[str, Any]:
        """Progress over all solves; loss and gradient are those of the first one under way, or the last one found."""
        shown = state.progress[min(state.progress)] if state.progress else {}
        if not state.progress and state.done:
            shown = state.done[max(state.done)].record
        totals = {
            name: sum(minimum.record[many] for minimum in state.done.values())
            + sum(progress[name] for progress in state.progress.values())
            for name, many in TOTALS.items()
        }
        solved = len(state.done) + sum(progress["fraction"] or 0.0 for progress in state.progress.values())
        return {
            "loss": shown.get("loss"),
            "gradient_norm": shown.get("gradient_norm"),
            **totals,
            "fraction": solved / self.config.subsets,
        }

    def iterate(self, state: SubsetsState) -> Tensor:
        """Return the iterate of the first solve under way, broadcast by its rank."""
        if not state.progress:
            return state.done[max(state.done)].w if state.done else state.start
        index, tensors = min(state.progress), {}
        if (solve := self._solves.get(index)) is not None and solve.state is not None:
            tensors = {"w": solve.phase.iterate(solve.state)}
            tensors |= {f"buffer/{name}": value for name, value in self._model.flat.buffers().items()}
        received = self._ranks.broadcast_tensors(tensors, self._rank_of(index))
        self._model.flat.load_buffers(under("buffer/", received))
        return received["w"].to(self._data.device)

    def details(self) -> dict[str, Any]:
        """The solver's settings, and `subsets`: every minimum, their average and the best, compared."""
        return {"settings": self.config.settings, "subsets": self._joined}

    def finish(self, state: SubsetsState) -> PhaseOutcome:
        """Compare the minima, a solve cut short by its own iterate, and return the one to hand on."""
        for index in sorted(state.progress):
            self._round(state, partial(self._end, index, StopReason.BUDGET))
        minima = [state.done[index] for index in sorted(state.done)]
        w, self._joined = join_minima(self._data, self._model, self._union, self.config, minima)
        loss, gradient = self._judges[0].value_and_gradient(w, "evaluation")
        self._model.refresh_batch_norm(self._union, w, SplitName.SUBSET)
        return PhaseOutcome(w, float(loss), float(gradient.abs().max()))

    def save(self, state: SubsetsState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the minima found, and the states of all solves under way, which their ranks broadcast one by one."""
        tensors = {"start": state.start} | {f"done/{index}": minimum.w for index, minimum in state.done.items()}
        underway: dict[str, Any] = {}
        for index in sorted(state.progress):
            solve = self._solves.get(index)
            inner, numbers = ({}, {}) if solve is None else solve.save()
            inner = self._ranks.broadcast_tensors(inner, self._rank_of(index))
            underway[str(index)] = self._ranks.broadcast(numbers, self._rank_of(index))
            if self._ranks.main:  # which writes; the others let it go
                tensors |= {f"underway/{index}/{name}": tensor for name, tensor in inner.items()}
        return tensors, {
            "allowance": None if math.isinf(state.allowance) else state.allowance,
            "exhausted": state.exhausted,
            "done": {str(index): minimum.record for index, minimum in state.done.items()},
            "progress": {str(index): progress for index, progress in state.progress.items()},
            "underway": underway,
        }

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> SubsetsState:
        """Rebuild all without evaluating; each rank takes up the solves that are its own now."""
        device = self._data.device
        for index, solve in self._solves.items():
            if (saved := numbers["underway"].get(str(index))) is not None:
                solve.restore(under(f"underway/{index}/", tensors), saved)
            solve.charges()  # what building it has cost is in the checkpoint's ledger already
        return SubsetsState(
            tensors["start"].to(device),
            math.inf if numbers["allowance"] is None else numbers["allowance"],
            {int(i): SubsetMinimum(tensors[f"done/{i}"].to(device), dict(r)) for i, r in numbers["done"].items()},
            {int(i): dict(progress) for i, progress in numbers["progress"].items()},
            numbers["exhausted"],
        )

    def _rank_of(self, index: int) -> int:
        return index % self._ranks.size

    def _round(self, state: SubsetsState, work: Callable[[], tuple[dict[str, Any], SubsetMinimum | None]]) -> None:
        """Do `work` on each rank's own solves, share the progress of each, minima found and cost."""
        report, found = self._ranks.together(work)
        report["charges"] = [solve.charges() for solve in self._solves.values()]
        for rank, received in enumerate(self._ranks.gather(report)):
            for charges in received["charges"]:
                self._budget.ledger.add(charges)
            state.exhausted |= received["exhausted"]
            index = received["index"]
            if received["minimum"] is not None:
                own = {} if found is None else {"w": found.w}
                w = self._ranks.broadcast_tensors(own, rank)["w"].to(self._data.device)
                state.done[index] = SubsetMinimum(w, received["minimum"])
                state.progress.pop(index, None)
            elif received["progress"] is not None:
                state.progress[index] = received["progress"]

    def _advance(self, state: SubsetsState) -> tuple[dict[str, Any], SubsetMinimum | None]:
        """Take one iteration of this rank's current solve, if there is one left."""
        index = next((index for index in self._solves if index not in state.done), None)
        if index is None:
            return _report(), None
        solve = self._solves[index]
        reason = solve.advance(state.start, state.allowance)
        if solve.state is None:
            return _report(index, exhausted=True), None
        if reason is not None:
            return self._end(index, reason)
        return _report(index, progress=solve.progress()), None

    def _end(self, index: int, reason: StopReason) -> tuple[dict[str, Any], SubsetMinimum | None]:
        """End the solve of a subset, where it is this rank's."""
        if index not in self._solves:
            return _report(), None
        found = self._solves[index].end(reason)
        return _report(index, minimum=found.record), found


def _report(
    index: int | None = None,
    progress: dict[str, Any] | None = None,
    minimum: dict[str, Any] | None = None,
    exhausted: bool = False,
) -> dict[str, Any]:
    """Return what one rank sends to the others of its solve of subset `index`."""
    return {"index": index, "progress": progress, "minimum": minimum, "exhausted": exhausted}
