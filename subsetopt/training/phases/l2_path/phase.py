"""The L2 path: a solve for each strength, from the strongest to the weakest, and the choice by held-out loss.

Each solve begins at the end of the last, or where the last two minima point to, whichever has the lower loss, with the
last one's curvature pairs. Which strength is best needs no exact minima: the gradient test of all solves is `LOOSER`
times the run's, and the chosen one goes on to that (continuation: Friedman, Hastie & Tibshirani 2010, section 2.5, for
linear models).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from subsetopt.documents.run import LossOf
from subsetopt.errors import SettingError, setting
from subsetopt.saving import under
from subsetopt.solvers.continuation import extrapolated
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.budget import Budget
from subsetopt.training.context import RunContext
from subsetopt.training.phases.l2_path.choice import PathMinimum, best_of, document
from subsetopt.training.phases.protocol import PhaseOutcome
from subsetopt.training.phases.solver import SolverPhase, SolverState
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData

LOOSER = 100.0
"""On four data sets eight strengths cost 0.4 to 1.6 times the dearest alone, with 30 up to 2.1, with 1 up to 2.5."""


@dataclass
class PathState:
    """The minima found, in the order of the strengths, and the solve under way, None between two.

    `chosen` is the place of the best strength, once all are solved and its minimum is being refined.
    """

    solve: SolverState | None
    done: list[PathMinimum] = field(default_factory=list)
    chosen: int | None = None
    ended: StopReason | None = None


class L2PathPhase:
    """Solves for each strength of `config.l2_path` and hands on the minimum with the lowest held-out loss."""

    def __init__(self, config: PhaseConfig, data: TrainingData, budget: Budget, run: RunContext) -> None:
        if not data.samples(SplitName.VALIDATION):
            strengths = ",".join(f"{strength:g}" for strength in config.l2_path)
            remedy = f"set {setting('validation_fraction')} above 0, or give one strength"
            raise SettingError("l2", strengths, "needs held-out data to choose a strength by", remedy)
        self.config = config
        self._data, self._budget, self._run, self._model = data, budget, run, run.model
        self._loose = self._solver(LOOSER)
        self._fine = self._solver(1.0)

    @property
    def samples(self) -> int:
        """K for the subset, N for the full set."""
        return self._loose.samples

    @property
    def loss_of(self) -> LossOf:
        """The objective on the samples of the phase, with the L2 term of the strength that is being solved."""
        return LossOf.L2_PATH

    @property
    def title(self) -> str:
        """For the progress bar."""
        return f"{self._loose.title}, {len(self.config.l2_path)} L2 strengths"

    @property
    def least_cost(self) -> float:
        """The evaluation at the start, and one at the end of a first step."""
        return self._loose.least_cost + self._look

    @property
    def fixed_length(self) -> str | None:
        """The states of finished solves are not kept, only their minima."""
        return f"its solves for {len(self.config.l2_path)} L2 strengths ended with their limit"

    def start(self, w: Tensor) -> PathState:
        """Begin the solve for the strongest penalty."""
        self._model.choose_l2(self.config.l2_path[0])
        self._budget.ledger.reserve(self._look)  # for that at the minimum with which a limit ends the path
        return PathState(self._loose.start(w))

    def step(self, state: PathState) -> PathState:
        """Take one iteration of the solve under way, or end it and begin the next."""
        if state.solve is None:
            state.solve = self._next(state)
        else:
            state.solve = self._under_way(state).step(state.solve)
        self._settle(state)
        return state

    def terminate(self, state: PathState) -> StopReason | None:
        """Stop when the chosen minimum is refined; the reason is that of its solve."""
        return state.ended

    def record(self, state: PathState) -> dict[str, Any]:
        """Progress over all solves; loss and gradient are those of the one under way, or the last one found."""
        shown = state.done[-1].record if state.solve is None else self._under_way(state).record(state.solve)
        own = {"iteration": 0, "evaluations": 0, "products": 0} if state.solve is None else shown
        names = ("iteration", "evaluations", "products")
        totals = {name: own[name] + sum(minimum.record[name] for minimum in state.done) for name in names}
        count = len(self.config.l2_path) + 1
        return {
            "loss": shown["loss"],
            "gradient_norm": shown["gradient_norm"],
            **totals,
            "fraction": (len(state.done) + (own.get("fraction") or 0.0)) / count,
        }

    def iterate(self, state: PathState) -> Tensor:
        """Return the current iterate."""
        if state.solve is None:
            return state.done[-1].w
        return self._under_way(state).iterate(state.solve)

    def details(self) -> dict[str, Any]:
        """The solver's settings, the gradient test of the chosen minimum, and `l2_path`: every strength and minimum."""
        return {**self._fine.details(), "l2_path": self._document}

    def finish(self, state: PathState) -> PhaseOutcome:
        """Return the chosen minimum; where a limit ended the path, the best of what it has found so far."""
        if state.solve is not None:
            refined = state.chosen is not None
            found = self._minimum(state, state.solve)
            if refined:
                state.done[state.chosen or 0] = found.after(state.done[state.chosen or 0])
            else:
                state.done.append(found)
            state.solve = None
        best = best_of(state.done) if state.chosen is None else state.chosen
        chosen = state.done[best]
        self._model.choose_l2(chosen.record["l2"])
        self._model.refresh_batch_norm(self._data, chosen.w, self.config.split)
        self._document = document(self.config.l2_path, state.done, best, LOOSER)
        return PhaseOutcome(chosen.w, chosen.record["loss"], chosen.record["gradient_norm"])

    def save(self, state: PathState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the minima found, and the state of the solve under way."""
        tensors = {f"done/{place}": minimum.w for place, minimum in enumerate(state.done)}
        solve = None
        if state.solve is not None:
            inner, solve = self._under_way(state).save(state.solve)
            tensors |= {f"solve/{name}": tensor for name, tensor in inner.items()}
        return tensors, {
            "solve": solve,
            "done": [minimum.record for minimum in state.done],
            "chosen": state.chosen,
            "ended": state.ended,
            "loss_scale": self._run.scale.value,
        }

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> PathState:
        """Rebuild all without evaluating."""
        device = self._data.device
        self._run.scale.value = numbers["loss_scale"]  # between two solves nobody else has it
        done = [
            PathMinimum(tensors[f"done/{place}"].to(device), dict(record))
            for place, record in enumerate(numbers["done"])
        ]
        ended = None if numbers["ended"] is None else StopReason(numbers["ended"])
        state = PathState(None, done, numbers["chosen"], ended)
        if numbers["solve"] is not None:
            self._model.choose_l2(self._strength(state))
            state.solve = self._under_way(state).restore(under("solve/", tensors), numbers["solve"])
        elif done:
            self._model.choose_l2(done[-1].record["l2"])
        return state

    @property
    def _look(self) -> float:
        """Epoch-equivalents of one evaluation of the held-out data."""
        return self._budget.ledger.price("forward", self._data.samples(SplitName.VALIDATION))

    def _solver(self, looser: float) -> SolverPhase:
        single = {"l2_path": (), "gtol": self.config.gtol * looser, "carry": True}
        return SolverPhase(self.config.model_copy(update=single), self._data, self._budget, self._run)

    def _under_way(self, state: PathState) -> SolverPhase:
        return self._loose if state.chosen is None else self._fine

    def _strength(self, state: PathState) -> float:
        """Return the strength of the solve under way, or of the next one."""
        return self.config.l2_path[len(state.done) if state.chosen is None else state.chosen]

    def _next(self, state: PathState) -> SolverState:
        """Begin the next solve, with the curvature of the last; the last of all refines the chosen minimum."""
        phase, strength = self._under_way(state), self._strength(state)
        change = strength - self._model.l2
        self._model.choose_l2(strength)
        if state.chosen is not None:
            return phase.begin(state.done[state.chosen].w, None, change)
        traced = [(minimum.record["l2"], minimum.w) for minimum in state.done]
        return phase.begin(state.done[-1].w, extrapolated(traced, strength), change)

    def _settle(self, state: PathState) -> None:
        """Where the solve under way is at its end, keep its minimum; choose when it was the last strength's."""
        if state.solve is None or (reason := self._under_way(state).terminate(state.solve)) is None:
            return
        if state.chosen is not None:
            state.ended = reason
            return
        solver = state.solve.solver
        state.done.append(self._minimum(state, state.solve, reason))
        state.solve = None
        self._run.carried.put(self.config.method, self._loose.solver, solver)
        if len(state.done) == len(self.config.l2_path):
            state.chosen = best_of(state.done)

    def _minimum(self, state: PathState, solve: SolverState, reason: StopReason | None = None) -> PathMinimum:
        """Return what the solve has found, with its held-out loss, which is charged to selection."""
        phase = self._under_way(state)
        progress, outcome = phase.record(solve), phase.finish(solve)
        ended = reason or phase.terminate(solve) or StopReason.BUDGET
        w = outcome.w.detach().clone()
        return PathMinimum(
            w,
            {
                "l2": self._model.l2,
                "loss": outcome.loss,
                "held_out_loss": self._model.held_out_loss(self._data, w),
                "gradient_norm": outcome.gradient_norm,
                "stop_reason": str(ended),
                "iteration": progress["iteration"],
                "evaluations": progress["evaluations"],
                "products": progress["products"],
            },
        )
