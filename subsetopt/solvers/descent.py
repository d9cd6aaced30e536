"""A direction and a line search, composed: the step that L-BFGS and nonlinear CG share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from subsetopt.objective.protocol import Purpose, SmoothObjective
from subsetopt.saving import join, split
from subsetopt.settings import setting
from subsetopt.solvers.iterate import (
    CONTRADICTION,
    Iterate,
    StopSettings,
    advance,
    changed,
    evaluate,
    promised_decrease,
    restart_fields,
    start_fields,
)
from subsetopt.solvers.line_search import LineSearch, Trial, WolfeConditions
from subsetopt.solvers.noise import measured_noise, secant_step, trapezium_error
from subsetopt.solvers.protocol import StopReason
from subsetopt.solvers.wrong_gradient import told_apart

M = TypeVar("M")

FIRST_DECREASE = 0.2  # that the slope promises of the very first step, as a share of the loss
FIRST_SHARE = 0.1  # of ||w||: the length of the first step where the loss is 0


@dataclass(frozen=True)
class Line:
    """Where to search: from w along `direction`, whose slope g·d is negative, first at `first_step`."""

    direction: Tensor
    slope: float
    first_step: float


@dataclass(kw_only=True)
class DescentState(Iterate, Generic[M]):
    """Iterate, the memory that the direction is made of, and the length of the last step (0 before the first).

    `measured_noise` is the rounding error of the loss that a search has met (0 while none was misled).
    """

    memory: M
    step_length: float = 0.0
    measured_noise: float = 0.0


@dataclass(frozen=True, kw_only=True)
class DescentSolver(StopSettings, Generic[M]):
    """Base of the line-search solvers; a subclass gives the memory and its direction.

    A step meets the Wolfe conditions with constants `decrease` and `curvature`, the strong ones if `strong_wolfe`.

    An objective that raises `BudgetExhausted` within a step leaves the state before the step usable: memory is touched
    only after the line search has succeeded, and nothing is evaluated after that.
    """

    name: ClassVar[str]
    state_type: ClassVar[type[Any]]
    decrease: float = setting(1e-4, above=0, below=0.5)
    curvature: float = setting(0.9, above=0, below=1)
    strong_wolfe: bool = setting(False)
    max_trials: int = setting(25, at_least=1)

    @property
    def makes_products(self) -> bool:
        """Whether it may ask the objective for curvature products; solvers that do not say so may."""
        return getattr(self, "preconditioner", "none") != "none"

    def new_memory(self, w: Tensor) -> M:
        """Return a memory without curvature."""
        raise NotImplementedError

    def propose(self, memory: M, state: DescentState[M]) -> Line | None:
        """Return the line to search, or None where memory has no descent direction to offer."""
        raise NotImplementedError

    def learn(self, memory: M, state: DescentState[M], line: Line, trial: Trial) -> tuple[M, float]:
        """Take the accepted step into memory; return it and the length of the step. One synchronisation."""
        raise NotImplementedError

    def init(self, objective: SmoothObjective, w: Tensor) -> DescentState[M]:
        """Evaluate at a copy of w, shape (P,)."""
        start = start_fields(objective, w)
        state: DescentState[M] = self.state_type(**start, memory=self.new_memory(start["w"]))
        return state

    def ready(self, objective: SmoothObjective, state: DescentState[M]) -> DescentState[M]:
        """Return the state to step from: where the objective has changed, evaluated anew and without memory."""
        if state.identity == objective.identity:
            return state
        restarted: DescentState[M] = self.state_type(
            **restart_fields(objective, state), memory=self.new_memory(state.w)
        )
        return restarted

    def forget(self, state: DescentState[M]) -> M:
        """Return a memory without curvature, to continue from `state` with."""
        return self.new_memory(state.w)

    def step(self, objective: SmoothObjective, state: DescentState[M]) -> DescentState[M]:
        """Search along the direction and, where that fails, once along the one that a fresh memory proposes.

        A search that the limit on evaluations cut short leaves memory alone: the solve continues where more is allowed.
        """
        state = self.ready(objective, state)
        memory = state.memory
        line = self.propose(memory, state)
        search = _Search(self, objective, state)
        trial = None if line is None else search.along(line)
        if trial is None and not search.exhausted and (line is None or state.step_length > 0):
            memory = self.forget(state)
            line = self.propose(memory, state)
            trial = None if line is None else search.along(line)
        if trial is None or line is None:
            failed = changed(state, memory=memory, evaluations=search.evaluations, failure=search.failure)
            return told_apart(objective, failed, self.evaluations_left(failed))
        memory, length = self.learn(memory, state, line, trial)
        changes = {"step_length": length, "measured_noise": search.measured_noise}
        state = advance(state, trial, search.evaluations, memory=memory, **changes)
        return told_apart(objective, state, self.evaluations_left(state))

    def steepest(self, state: DescentState[M]) -> Line:
        """Return the line along -g; its first step is as long as the last accepted one.

        The very first is a share of Polyak's, |f| / g·g, which no translation or rotation of w and no scaling of f or w
        disturbs, and which is never too long for a quadratic whose minimum is 0; where f is 0, a share of ||w||.
        """
        square = state.gradient_l2**2
        length = state.step_length or FIRST_DECREASE * abs(state.loss) / state.gradient_l2
        return Line(-state.gradient, -square, (length or FIRST_SHARE * state.start_length) / state.gradient_l2)

    def save(self, state: DescentState[M]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Split the state; see `state.split`."""
        return split(state)

    def restore(
        self, objective: SmoothObjective, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
    ) -> DescentState[M]:
        """Rebuild the state for the objective that it was saved with."""
        numbers = {"measured_noise": 0.0, **numbers}  # what former versions saved has none
        state: DescentState[M] = join(self.state_type, tensors, numbers, identity=objective.identity)
        return state


_line_search = cache(LineSearch)


class _Search:
    """The evaluations of one step: charges the first to training and the others to the line search."""

    def __init__(self, solver: DescentSolver[Any], objective: SmoothObjective, state: DescentState[Any]) -> None:
        self._solver, self._objective, self._state = solver, objective, state
        self._start = state.evaluations
        self.evaluations = state.evaluations
        self.measured_noise = state.measured_noise
        self.failure: str | None = None

    @property
    def exhausted(self) -> bool:
        """True where the limit on evaluations admits no more: a search that ended there says nothing of its line."""
        return self._left == 0

    @property
    def _left(self) -> int:
        return self._solver.evaluations_left(self._state) - (self.evaluations - self._start)

    def along(self, line: Line) -> Trial | None:
        """Return the accepted trial, or None with the reason in `failure`.

        A search that the rounding error of the loss has misled tells how large it is: then the trial with the smallest
        slope may serve, or another search does, and from then on slopes decide below that error.
        """
        solver, state = self._solver, self._state
        self.failure = None
        start = state.point(line.slope)
        trials = _Trials(start)
        step = line.first_step
        for _ in range(2):
            noise = max(state.noise, self.measured_noise)
            conditions = WolfeConditions(solver.decrease, solver.curvature, noise, solver.strong_wolfe)

            def trial_at(step: float) -> Trial:
                return trials.note(self._evaluate(line, step))

            trial, _ = _line_search(solver.max_trials)(trial_at, start, step, conditions, self._left)
            measured = measured_noise(trials.errors, state.w, state.scale)
            if trial is not None and noise < measured >= abs(trial.loss - start.loss):
                self.measured_noise = measured  # the search found its way by luck
            if trial is not None or self.exhausted:
                return trial
            if trials.flattest is None or measured <= noise:
                break
            self.measured_noise = measured
            flattest = trials.flattest._replace(noise=max(trials.flattest.noise, measured))
            if conditions._replace(noise=measured).hold(start, flattest):
                return flattest
            step = secant_step(start, flattest)
        floor = trials.promised <= CONTRADICTION * state.noise
        self.failure = (StopReason.PRECISION_FLOOR if floor else StopReason.LINE_SEARCH).value
        return None

    def _evaluate(self, line: Line, step: float) -> Trial:
        purpose: Purpose = "train" if self.evaluations == self._start else "line_search"
        self.evaluations += 1
        w = self._state.w.add(line.direction, alpha=step)
        trial = evaluate(self._objective, w, purpose, step, line.direction)
        if not self.measured_noise > trial.noise:
            return trial
        return trial._replace(noise=self.measured_noise)


@dataclass
class _Trials:
    """What the trials along one line say together.

    `promised` is the decrease that slopes promise at the longest step where they still point downhill; `errors` are
    pairs of a step and its `trapezium_error`.
    """

    start: Trial
    promised: float = 0.0
    flattest: Trial | None = None
    errors: list[tuple[float, float]] = field(default_factory=list)

    def note(self, trial: Trial) -> Trial:
        """Take `trial` into account and return it."""
        self.promised = max(self.promised, promised_decrease(self.start, trial))
        if trial.finite and (self.flattest is None or abs(trial.slope) < abs(self.flattest.slope)):
            self.flattest = trial
        self.errors.append((trial.step, trapezium_error(self.start, trial)))
        return trial
