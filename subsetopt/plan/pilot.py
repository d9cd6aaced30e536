"""What a plan learns from this machine and this problem: seconds per call, and one small subset solved."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from subsetopt.analysis.excess import estimated_minimum
from subsetopt.data import draw
from subsetopt.objective import Objective
from subsetopt.training.context import PreparedRun
from subsetopt.training.loss_scale import minimize_relative
from subsetopt.training.phases.first_order.phase import FirstOrderPhase
from subsetopt.training.run_model import training_loss
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.splits import SplitName

TIMED_ROWS = 4096
REPEATS = 3
STEPS = 24
PILOT_ROWS = 2000
PILOT_SHARE = 0.1
BATCH = 64
STREAM_BATCH = 512


@dataclass(frozen=True)
class Speeds:
    """Seconds on this machine: of one epoch-equivalent, of Hessian and Gauss-Newton products over the training set, of
    one mini-batch step of 64 rows, of a gradient of 512, and of one held-out evaluation (None without such data).
    """

    unit: float
    hvp: float
    ggnvp: float
    step: float
    small_gradient: float
    held_out: float | None


@dataclass(frozen=True)
class Pilot:
    """L-BFGS on a random subset of K `samples`: the objective after each evaluation count, and where it ended.

    `loss` is that on the subset and `held_out` that on held-out data, both without L2; `penalty` is the L2 term.
    `overhead` are the seconds of one evaluation beyond those of the model call.
    """

    samples: int
    curve: tuple[tuple[int, float], ...]
    converged: bool
    loss: float
    penalty: float
    held_out: float | None
    overhead: float
    epoch_equivalents: float
    seconds: float

    @property
    def effective_parameters(self) -> float | None:
        """2 K times the excess of the subset's minimum on held-out data; None where it was not seen to be positive."""
        if self.held_out is None or self.held_out <= self.loss or self.full_minimum is None:
            return None
        return 2 * self.samples * (self.held_out + self.penalty - self.full_minimum)

    def evaluations(self, excess: float) -> int | None:
        """Return the evaluations until within `excess` of the pilot's own minimum; None where it was not reached."""
        if not self.converged:
            return None
        goal = (1 + excess) * self.curve[-1][1]
        return next(count for count, value in self.curve if value <= goal)

    @property
    def full_minimum(self) -> float | None:
        """An estimate of the full minimum's objective; None where the pilot did not reach its own."""
        if not self.converged:
            return None
        own = self.loss + self.penalty
        return own if self.held_out is None else max(own, estimated_minimum(own, self.held_out + self.penalty))


def measure_speeds(prepared: PreparedRun, clock: Callable[[], float] = time.perf_counter) -> Speeds:
    """Time each kind of call, the median of three after one to warm up; over at most 4096 rows, scaled to all."""
    data, _, run = prepared
    full, rows = data.full_size, min(data.full_size, TIMED_ROWS)
    timed = _objective(prepared, rows)
    w, scale = timed.initial(), full / rows
    v = torch.ones_like(w) / w.numel() ** 0.5
    products = timed.linearise(w)
    small = _objective(prepared, min(full, STREAM_BATCH))
    return Speeds(
        unit=scale * _timed(lambda: timed.value_and_gradient(w, "calibration"), clock, data.device),
        hvp=scale * _timed(lambda: products.hvp(v), clock, data.device),
        ggnvp=scale * _timed(lambda: products.ggnvp(v), clock, data.device),
        step=_step_seconds(prepared, clock),
        small_gradient=_timed(lambda: small.value_and_gradient(w, "calibration"), clock, data.device),
        held_out=(
            _timed(lambda: run.model.evaluate(data, w, SplitName.VALIDATION), clock, data.device)
            if data.samples(SplitName.VALIDATION)
            else None
        ),
    )


def run_pilot(prepared: PreparedRun, limit: float, clock: Callable[[], float] = time.perf_counter) -> Pilot:
    """Solve a tenth of the data, at most 2000 rows, for at most `limit` seconds, and look at held-out data."""
    data, budget, run = prepared
    config = run.config
    size = min(max(1, round(PILOT_SHARE * data.full_size)), PILOT_ROWS)
    own = data.with_subset(draw(data.full_size, size=size, seed=config.seed, stratify=data.strata))
    objective, before, began = run.model.objective(own, SplitName.SUBSET), budget.ledger.cost, clock()
    curve: list[tuple[int, float]] = []

    def look(state: Any) -> bool:
        curve.append((state.evaluations, state.loss))
        return clock() - began > limit

    solved = minimize_relative(
        objective, objective.initial(), "lbfgs", gtol=config.gtol, max_iterations=config.max_iterations, callback=look
    )
    curve.append((solved.counts["evaluations"], solved.loss))
    seconds = clock() - began
    call = _timed(lambda: objective.value_and_gradient(solved.x, "calibration"), clock, data.device)
    run.model.refresh_batch_norm(own, solved.x, SplitName.SUBSET)
    here, held_out = (
        run.model.evaluate(own, solved.x, SplitName.SUBSET),
        run.model.evaluate(own, solved.x, SplitName.VALIDATION),
    )
    assert here is not None, "a subset has samples"
    return Pilot(
        samples=objective.n_samples,
        curve=tuple(curve),
        # The cap on iterations ends slow tails only: what is then left is far below any level of the laws.
        converged=solved.stop_reason != "callback",
        loss=training_loss(here),
        penalty=0.5 * config.one_strength * float(solved.x.double().square().sum()),
        held_out=None if held_out is None else training_loss(held_out),
        overhead=max(0.0, seconds / max(solved.counts["evaluations"], 1) - call),
        epoch_equivalents=budget.ledger.cost - before,
        seconds=clock() - began,
    )


def _objective(prepared: PreparedRun, rows: int) -> Objective:
    data, budget, run = prepared
    inputs, targets = data.trained(SplitName.TRAIN)
    return Objective(
        run.model.flat,
        inputs[:rows],
        targets[:rows],
        loss=run.model.loss,
        l2=run.model.l2,
        preprocess=data.preprocess,
        meter=budget.ledger,
    )


def _step_seconds(prepared: PreparedRun, clock: Callable[[], float]) -> float:
    data, budget, run = prepared
    epochs = STEPS * BATCH / data.full_size
    config = PhaseConfig(method="sgd", data="full", role="handoff", epochs=epochs, batch_size=BATCH, lr=1e-6)
    taken = []
    for _ in range(2):
        phase = FirstOrderPhase(config, data, budget, run)
        budget.ledger.open_phase(epochs)
        state = phase.start(run.model.flat.initial())
        began = clock()
        while phase.terminate(state) is None:
            state = phase.step(state)
        _finish(data.device)
        taken.append((clock() - began) / max(state.iterations, 1))
    budget.ledger.open_phase(None)
    return min(taken)


def _timed(call: Callable[[], object], clock: Callable[[], float], device: torch.device) -> float:
    call()
    taken = []
    for _ in range(REPEATS):
        _finish(device)
        began = clock()
        call()
        _finish(device)
        taken.append(clock() - began)
    return median(taken)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
