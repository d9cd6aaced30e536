"""A solve in rounds, each on samples drawn anew by their residuals, and at last on all samples.

A round begins with the objective, its gradient and every sample's residual on all samples, which tells what to draw and
how wrong the gradient on the samples drawn is. Its end tells how far they could be trusted: where the objective on all
samples has not followed, the next draw is larger, and where it has risen the round is taken back. Curvature pairs and
the preconditioner go from round to round, and into the solve on all samples, which makes the gradient test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from subsetopt.documents.run import LossOf
from subsetopt.objective.arithmetic import accumulation_dtype
from subsetopt.objective.host import host_read
from subsetopt.objective.protocol import BudgetExhausted, Purpose
from subsetopt.objective.sample_residuals import gradient_and_residuals
from subsetopt.saving import join, split, under
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.budget import Budget
from subsetopt.training.context import RunContext
from subsetopt.training.loss_scale import relative_to
from subsetopt.training.phases.drawn.checks import FEWEST_SAMPLES, check_drawn, first_share, solve_settings
from subsetopt.training.phases.drawn.objectives import RoundObjectives, known
from subsetopt.training.phases.drawn.output_layer import layer_to_solve_for, settle
from subsetopt.training.phases.drawn.rounds import (
    AGREEMENT,
    GROWTH,
    LARGEST,
    RoundState,
    end_of,
    entry_of,
    evaluations_of,
    judge,
)
from subsetopt.training.phases.protocol import PhaseOutcome
from subsetopt.training.phases.solver import check_ranks, progress, solver_of
from subsetopt.training.phases.stopping import HeldOutTest, MinimumTest, StopTest
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.splits import SplitName
from subsetopt.training.training_data import TrainingData

LIMITS = (StopReason.MAX_ITERATIONS, StopReason.MAX_EVALUATIONS)
FEWEST = 8  # samples of a draw
SLACK = 1e-9
SCORES = "round.scores"  # which stay on the CPU, where rows are drawn


class DrawnPhase:
    """Runs one solver in rounds on samples drawn by their residuals, then on all samples."""

    def __init__(self, config: PhaseConfig, data: TrainingData, budget: Budget, run: RunContext) -> None:
        check_drawn(config, data, run)
        self.config = config
        self._data, self._budget, self._run, self._model = data, budget, run, run.model
        self._begin_with(FEWEST_SAMPLES)
        check_ranks(self._solver, run)
        self._gtol: float | None = getattr(self._solver, "gtol", None)
        self._scale: float | None = None
        self._full = run.model.objective(data, SplitName.TRAIN)
        layer = layer_to_solve_for(self._full, self._solver, run)
        self._objectives = RoundObjectives(self._full, data, run, config.draw_uniform, self._size, layer)
        self._test: StopTest = MinimumTest()
        if config.stop_at == "validation":
            self._test = HeldOutTest(self._held_out_loss)
        self._history: dict[str, Any] = {}

    @property
    def samples(self) -> int:
        """N: all samples are drawn from."""
        return self._data.full_size

    @property
    def loss_of(self) -> LossOf:
        """The objective on all samples, in a round as the samples drawn estimate it."""
        return LossOf.DRAWN

    @property
    def title(self) -> str:
        """For the progress bar."""
        return f"{self.config.method} on samples drawn from {self.samples} by residual"

    @property
    def least_cost(self) -> float:
        """All samples at the start and at the end, and those drawn at the ends of a first step."""
        drawn = self._size(self._share)
        return self._budget.ledger.price("gradient", 2 * self.samples + (0 if self._needs_all(drawn) else 2 * drawn))

    @property
    def fixed_length(self) -> str | None:
        """A solver has no schedule: it can go on."""
        return None

    def start(self, w: Tensor) -> RoundState:
        """Evaluate all samples at w and begin the first round; raises `BudgetExhausted` where it takes no step."""
        self._run.carried.clear()
        with self._budget.ledger.arithmetic():
            self._require(self.least_cost)
            w = w.detach().to(self._full.device, self._full.dtype, copy=True)
            value, gradient, scores = gradient_and_residuals(self._full, w)
            at_start = self._solver.init(known(self._full, value, gradient), w)
            self._measure_in(self._run.scale.at_start(self._model, self._data, SplitName.TRAIN, w, at_start))
            origin = RoundState(None, w, at_start.loss, gradient, scores, scores[:0], 0.0, self._share)
            return self._begun(origin)

    def step(self, state: RoundState) -> RoundState:
        """Take one iteration, or end the round and begin the next; apply the stop test."""
        with self._budget.ledger.arithmetic():
            if not state.whole and self._round_over(state):
                return self._next(state)
            objective = self._objectives.on_all() if state.whole else self._objectives.of(state)
            settle(objective, state.solver)
            if state.whole:
                solver = self._solver.step(objective, state.solver)
            else:
                with self._room_for_the_end():
                    solver = self._solver.step(objective, state.solver)
            return dataclasses.replace(state, solver=solver, stopped=self._test.check(solver))

    def terminate(self, state: RoundState) -> StopReason | None:
        """On all samples the solver's own reason first; on some its limits alone. Then the stop test's."""
        reason = self._solver.terminate(state.solver)
        return reason if reason in LIMITS or (state.whole and reason is not None) else state.stopped

    def record(self, state: RoundState) -> dict[str, Any]:
        """Progress of the solver over all rounds."""
        return progress(state.solver, self.config.max_iterations)

    def iterate(self, state: RoundState) -> Tensor:
        """Return the current iterate; free of charge."""
        w: Tensor = state.solver.w
        return w

    def details(self) -> dict[str, Any]:
        """The solver's settings, the gradient test on all samples, and what each round came to."""
        measured = self._gtol is not None and self._scale is not None
        test = {"gtol": self._gtol, "loss_scale": self._scale}
        rounds = list(self._history.values())
        return {"settings": self._solve.settings, "gradient_test": test if measured else None, "rounds": rounds}

    def finish(self, state: RoundState) -> PhaseOutcome:
        """Return the iterate that the tests chose, or else the best of those that all samples know."""
        self._history = state.history
        solver, reason = state.solver, self.terminate(state)
        if not state.whole:
            outcome = self._better_end(state)
        elif reason is not None and reason.converged:
            outcome = PhaseOutcome(solver.w, solver.loss, solver.gradient_norm)
        else:
            outcome = PhaseOutcome(solver.best_w, solver.best_loss, solver.best_gradient_norm)
        chosen = self._test.choose(outcome.w)
        return outcome if chosen is outcome.w else self._outcome(chosen, "evaluation")

    def save(self, state: RoundState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The round, what the solver saves of its state, named `solver.`, and the stop test."""
        tensors, numbers = split({"test": self._test, "loss_scale": self._scale})
        round_tensors, round_numbers = split(state)
        solver_tensors, solver_numbers = self._solver.save(state.solver)
        tensors |= {f"round.{name}": tensor for name, tensor in round_tensors.items()}
        tensors |= {f"solver.{name}": tensor for name, tensor in solver_tensors.items()}
        return tensors, {
            "round": round_numbers,
            "solver": solver_numbers,
            "fewest": self._fewest,
            "settles": self._objectives.layer is not None,
        } | numbers

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> RoundState:
        """Rebuild all without evaluating; the draw is made again."""
        device = self._data.device
        placed = {name: tensor if name == SCORES else tensor.to(device) for name, tensor in tensors.items()}
        self._begin_with(numbers.get("fewest", 0))  # earlier versions drew from few samples, too
        if not numbers.get("settles", False):
            self._objectives.layer = None  # nor did they solve for the output layer
        self._test.load_state_dict(join(dict, under("test/", placed), numbers["test"]))
        self._measure_in(numbers["loss_scale"])
        self._run.scale.value = numbers["loss_scale"]
        round_numbers = {"relaxation": None, **numbers["round"]}  # rounds of earlier versions went all the way
        state = join(RoundState, under("round.", placed), round_numbers, solver=None)
        objective = self._objectives.on_all() if state.whole else self._objectives.of(state)
        return dataclasses.replace(
            state, solver=self._solver.restore(objective, under("solver.", placed), numbers["solver"])
        )

    def _begun(self, origin: RoundState) -> RoundState:
        """Return the round that begins at `origin`, whose `solver` is the state of the round before, or None.

        Where the gradient test is met there, or so many samples are due that all are cheaper, it is the solve on all.
        """
        value = torch.tensor(origin.loss, dtype=accumulation_dtype(self._full.device), device=self._full.device)
        at_origin = self._solver.init(known(self._objectives.on_all(), value, origin.gradient), origin.origin)
        ended = self._solver.terminate(at_origin) not in (None, *LIMITS)
        if ended or self._needs_all(self._size(origin.share)):
            none = origin.scores[:0]
            solver = self._continued(at_origin, origin.solver, 0)
            return dataclasses.replace(origin, solver=solver, noise=none, scores=none, whole=True)
        objective, noise = self._objectives.begun(origin)
        solver = self._continued(self._solver.init(objective, origin.origin), origin.solver, 1)
        return dataclasses.replace(origin, solver=solver, noise=noise, drawn_loss=solver.loss, begun=solver.evaluations)

    def _next(self, state: RoundState) -> RoundState:
        """End the round: evaluate all samples, judge the draw by them, and begin the next round."""
        solver = state.solver
        larger = min(1.0, GROWTH * state.share)
        self._require(self._budget.ledger.price("gradient", self.samples + 2 * self._size(larger)))
        end = end_of(state)
        value, gradient, scores = gradient_and_residuals(self._full, end.w)
        (loss,) = host_read(value.reshape(1))
        verdict = judge(state, end, loss, gradient)
        origin = dataclasses.replace(
            state,
            solver=dataclasses.replace(solver, evaluations=solver.evaluations + 1),
            share=state.share if verdict.agreement >= AGREEMENT else larger,
            correction=verdict.correction,
            relaxation=verdict.relaxation,
            number=state.number + 1,
            history={**state.history, str(state.number): entry_of(state, self._size(state.share), loss, verdict)},
        )
        if verdict.improved:
            origin = dataclasses.replace(origin, origin=end.w, loss=loss, gradient=gradient, scores=scores)
        return self._begun(origin)

    def _continued(self, fresh: Any, previous: Any, evaluations: int) -> Any:
        """Return a fresh state of the solver with what `previous` has learnt and counted, and `evaluations` more."""
        if previous is None:
            return dataclasses.replace(fresh, evaluations=1 + evaluations)
        if hasattr(self._solver, "inherit"):
            fresh = self._solver.inherit(fresh, previous)
        counts = {name: getattr(previous, name) for name in ("iterations", "products")}
        return dataclasses.replace(fresh, **counts, evaluations=previous.evaluations + evaluations)

    def _begin_with(self, fewest: int) -> None:
        """Take the settings of a phase that draws from no fewer than `fewest` samples, unless told to."""
        self._fewest = fewest
        self._share = first_share(self.config, self.samples, fewest)
        self._solve = solve_settings(self.config, self._run, self.samples, self._size(self._share), fewest)
        self._solver: Any = solver_of(self._solve)

    def _needs_all(self, drawn: int) -> bool:
        """Return whether all samples are cheaper than rounds on so many."""
        return drawn > LARGEST * self.samples

    def _size(self, share: float) -> int:
        """Return how many samples a draw of `share` has."""
        dataset = self._data.dataset
        classes = dataset.n_outputs if dataset.task == "classification" else 1
        return min(self.samples, max(round(share * self.samples), FEWEST, classes, self._run.ranks.size))

    def _round_over(self, state: RoundState) -> bool:
        return self._progress(state) >= 1 or self._solver.terminate(state.solver) is not None

    def _progress(self, state: RoundState) -> float:
        """Return how many of the round's evaluations are made, as a share."""
        planned = self.config.draw_evaluations or evaluations_of(self._size(state.share) / self.samples)
        return float((state.solver.evaluations - state.begun) / planned)

    def _require(self, cost: float) -> None:
        """Raise `BudgetExhausted` where less than `cost` epoch-equivalents are left."""
        ledger = self._budget.ledger
        if ledger.cost + cost > ledger.limit * (1 + SLACK):
            raise BudgetExhausted

    @contextmanager
    def _room_for_the_end(self) -> Iterator[None]:
        """Keep back what it costs to evaluate all samples once: a round's end is worth nothing without it."""
        ledger = self._budget.ledger
        limit = ledger.limit
        ledger.reserve(ledger.price("gradient", self.samples))
        try:
            yield
        finally:
            ledger.limit = limit

    def _better_end(self, state: RoundState) -> PhaseOutcome:
        """Return the end of the round or its origin, whichever has the lower objective on all samples."""
        outcome = PhaseOutcome(state.origin, state.loss, float(state.gradient.abs().max()))
        if state.solver.evaluations == state.begun:
            return outcome
        end = self._outcome(end_of(state, self._progress(state)).w, "selection")
        return end if end.loss is not None and end.loss < state.loss else outcome

    def _outcome(self, w: Tensor, purpose: Purpose) -> PhaseOutcome:
        loss, gradient = self._full.value_and_gradient(w, purpose)
        return PhaseOutcome(w, float(loss), float(gradient.abs().max()))

    def _measure_in(self, scale: float) -> None:
        """Make the gradient test in units of `scale`."""
        self._scale = scale
        self._solver = relative_to(solver_of(self._solve), scale)

    def _held_out_loss(self, w: Tensor) -> float:
        return self._model.held_out_loss(self._data, w)
