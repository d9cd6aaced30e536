"""A full-batch solver on the subset or on the full set, as a phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from subsetopt.documents.run import LossOf
from subsetopt.errors import SettingError
from subsetopt.objective import Objective
from subsetopt.saving import join, split, under
from subsetopt.solvers import SOLVERS, make_solver
from subsetopt.solvers.lbfgs import LBFGS
from subsetopt.solvers.protocol import Solver, State, StopReason
from subsetopt.training.budget import Budget
from subsetopt.training.context import RunContext
from subsetopt.training.loss_scale import relative_to
from subsetopt.training.phases.methods import METHODS
from subsetopt.training.phases.protocol import PhaseOutcome
from subsetopt.training.phases.stopping import HeldOutTest, MinimumTest, NoiseTest, StopTest, check_noise_test
from subsetopt.training.settings.names import setting_name
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.training_data import TrainingData


@dataclass
class SolverState:
    """The solver's own state, and what the stop test said of it."""

    solver: State
    stopped: StopReason | None = None


class SolverPhase:
    """Runs one solver on one full-batch objective."""

    def __init__(self, config: PhaseConfig, data: TrainingData, budget: Budget, run: RunContext) -> None:
        self.config = config
        self._data, self._budget, self._run, self._model = data, budget, run, run.model
        self._solver: Solver = solver_of(config)
        check_ranks(self._solver, run)
        if config.stop_at == "noise":
            check_noise_test(
                self.samples, self._model.flat.batch_dependent, setting_name(run.config, config, "stop_at")
            )
        _ = self._objective  # built and checked before any work
        if isinstance(self._solver, LBFGS):
            self._solver.require_room(self._model.flat.initial())
        self._test = self._make_test()
        self._gtol: float | None = getattr(self._solver, "gtol", None)
        self._scale: float | None = None

    @property
    def _objective(self) -> Objective:
        """The objective, of the L2 strength that the run has now."""
        return self._model.objective(self._data, self.config.split, track_noise=self.config.stop_at == "noise")

    @property
    def samples(self) -> int:
        """K for the subset, N for the full set."""
        return self._data.samples(self.config.split)

    @property
    def loss_of(self) -> LossOf:
        """The objective on the samples of the phase, with L2."""
        return LossOf.OBJECTIVE

    @property
    def title(self) -> str:
        """For the progress bar."""
        dataset = self._data.dataset
        classes = f" of {dataset.n_outputs} classes" if dataset.task == "classification" else ""
        return f"{self.config.method} on {self.samples} samples{classes}"

    @property
    def least_cost(self) -> float:
        """The evaluation at the start, and one at the end of a first step."""
        return self._budget.ledger.price("gradient", 2 * self.samples)

    @property
    def fixed_length(self) -> str | None:
        """A solver has no schedule: it can go on."""
        return None

    @property
    def solver(self) -> Solver:
        """The solver, whose gradient test is in units of the loss's scale once that is known."""
        return self._solver

    def start(self, w: Tensor) -> SolverState:
        """Evaluate at w; with `carry`, take over the curvature that the phase before has handed on."""
        return self.begin(w)

    def begin(self, w: Tensor, guess: Tensor | None = None, l2_change: float = 0.0) -> SolverState:
        """Begin as `start` does, at w or at `guess` where its loss is lower.

        `l2_change` is how much larger the L2 strength is than where the curvature to carry was learnt.
        """
        carried = self._run.carried
        with self._budget.ledger.arithmetic():
            state = self._solver.init(self._objective, w)
            self._measure_in(self._run.scale.at_start(self._model, self._data, self.config.split, w, state))
            if guess is not None:
                other = self._solver.init(self._objective, guess)
                state = replace(other if other.loss < state.loss else state, evaluations=2)
            if self.config.carry:
                state = carried.take(self.config.method, self._solver, self._objective, state, l2_change)
        carried.clear()
        return SolverState(state)

    def step(self, state: SolverState) -> SolverState:
        """Take one iteration of the solver and apply the stop test."""
        with self._budget.ledger.arithmetic():
            solver_state = self._solver.step(self._objective, state.solver)
            return SolverState(solver_state, self._test.check(solver_state))

    def terminate(self, state: SolverState) -> StopReason | None:
        """The solver's own reason first, then the stop test's."""
        return self._solver.terminate(state.solver) or state.stopped

    def record(self, state: SolverState) -> dict[str, Any]:
        """Progress of the solver."""
        return progress(state.solver, self.config.max_iterations)

    def iterate(self, state: SolverState) -> Tensor:
        """Return the current iterate; free of charge."""
        self._model.refresh_batch_norm(self._data, state.solver.w, self.config.split, "evaluation")
        return state.solver.w

    def details(self) -> dict[str, Any]:
        """The solver's settings, and the gradient test that it made: max|g| <= gtol * loss_scale."""
        known = self._gtol is not None and self._scale is not None
        test = {"gtol": self._gtol, "loss_scale": self._scale}
        return {"settings": self.config.settings, "gradient_test": test if known else None}

    def finish(self, state: SolverState) -> PhaseOutcome:
        """Return the iterate that the tests chose, or else the best one, with BatchNorm statistics to match."""
        solver, reason = state.solver, self.terminate(state)
        if reason is not None and reason.converged:
            outcome = PhaseOutcome(solver.w, solver.loss, solver.gradient_norm)
        else:
            outcome = PhaseOutcome(solver.best_w, solver.best_loss, solver.best_gradient_norm)
        chosen = self._test.choose(outcome.w)
        if chosen is not outcome.w:
            loss, gradient = self._objective.value_and_gradient(chosen, "evaluation")
            outcome = PhaseOutcome(chosen, float(loss), float(gradient.abs().max()))
        self._model.refresh_batch_norm(self._data, outcome.w, self.config.split)
        if self.config.role == "grow" and self._run.config.grow_carry:
            self._run.carried.put(self.config.method, self._solver, solver)
        return outcome

    def save(self, state: SolverState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What the solver saves of its state, named `solver.`, and the stop test."""
        solver_tensors, solver_numbers = self._solver.save(state.solver)
        tensors, numbers = split({"test": self._test, "stopped": state.stopped, "loss_scale": self._scale})
        tensors |= {f"solver.{name}": tensor for name, tensor in solver_tensors.items()}
        return tensors, {"solver": solver_numbers, **numbers}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> SolverState:
        """Rebuild both without evaluating."""
        tensors = {name: tensor.to(self._data.device) for name, tensor in tensors.items()}
        self._test.load_state_dict(join(dict, under("test/", tensors), numbers["test"]))
        self._measure_in(numbers["loss_scale"])
        self._run.scale.value = numbers["loss_scale"]
        solver_state = self._solver.restore(self._objective, under("solver.", tensors), numbers["solver"])
        stopped = numbers["stopped"]
        return SolverState(solver_state, None if stopped is None else StopReason(stopped))

    def _measure_in(self, scale: float) -> None:
        """Make the gradient test in units of `scale`, whatever it was made in before."""
        self._scale = scale
        self._solver = relative_to(solver_of(self.config), scale)

    def _make_test(self) -> StopTest:
        if self.config.stop_at == "noise":
            return NoiseTest(lambda state: state.gradient, self._gradient_noise, self.config.noise_theta)
        if self.config.stop_at == "validation":
            return HeldOutTest(self._held_out_loss)
        return MinimumTest()

    def _gradient_noise(self) -> Tensor:
        noise = self._objective.gradient_noise
        assert noise is not None, "the objective was built with track_noise and has been evaluated"
        return noise

    def _held_out_loss(self, w: Tensor) -> float:
        self._model.refresh_batch_norm(self._data, w, self.config.split)
        return self._model.held_out_loss(self._data, w)


def solver_of(config: PhaseConfig) -> Solver:
    """Return the solver of a phase; raises `SettingError` for unknown names and settings."""
    if config.method not in SOLVERS:
        raise SOLVERS.unknown(config.method, METHODS.names)
    settings: dict[str, Any] = {"gtol": config.gtol, **config.settings}
    if config.max_iterations is not None:
        settings["max_iterations"] = config.max_iterations
    return make_solver(config.method, **settings)


def progress(solver: State, limit: int | None) -> dict[str, Any]:
    """Return the record of a solver's state, with the share of `limit` iterations that are done."""
    return {
        "iteration": solver.iterations,
        "loss": solver.loss,
        "gradient_norm": solver.gradient_norm,
        "evaluations": solver.evaluations,
        "products": solver.products,
        "fraction": solver.iterations / limit if limit else None,
    }


def check_ranks(solver: Solver, run: RunContext) -> None:
    """Raise `SettingError` for curvature that one process alone can have."""
    if run.ranks.size == 1:
        return
    share, kind = getattr(solver, "sample_share", 1.0), getattr(solver, "preconditioner", "none")
    if kind == "diagonal":
        raise SettingError(
            "preconditioner", kind, f"is for one process, and there are {run.ranks.size}", "use kfac or none"
        )
    if run.model.flat.batch_dependent and (share != 1.0 or kind != "none"):
        name, given, plain = ("sample_share", share, 1) if share != 1.0 else ("preconditioner", kind, "none")
        raise SettingError(
            name,
            given,
            "parts of the samples change what BatchNorm does, and there are several ranks",
            f"use {plain}, or one process",
        )
