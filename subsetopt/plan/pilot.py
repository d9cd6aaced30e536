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
from subsetopt.training.loss_scale import minimize_relative
from subsetopt.training.phases.first_order.phase import FirstOrderPhase
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.workspace import Workspace, training_loss

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


def measure_speeds(workspace: Workspace, clock: Callable[[], float] = time.perf_counter) -> Speeds:
    """Time each kind of call, the median of three after one to warm up; over at most 4096 rows, scaled to all."""
    full, rows = workspace.full_size, min(workspace.full_size, TIMED_ROWS)
    timed = _objective(workspace, rows)
    w, scale = timed.initial(), full / rows
    v = torch.ones_like(w) / w.numel() ** 0.5
    products = timed.linearise(w)
    small = _objective(workspace, min(full, STREAM_BATCH))
    held_out = workspace.split("validation")
    return Speeds(
        unit=scale * _timed(lambda: timed.value_and_gradient(w, "calibration"), clock, workspace),
        hvp=scale * _timed(lambda: products.hvp(v), clock, workspace),
        ggnvp=scale * _timed(lambda: products.ggnvp(v), clock, workspace),
        step=_step_seconds(workspace, clock),
        small_gradient=_timed(lambda: small.value_and_gradient(w, "calibration"), clock, workspace),
        held_out=None if held_out is None else _timed(lambda: workspace.evaluate(w, "validation"), clock, workspace),
    )


def run_pilot(workspace: Workspace, limit: float, clock: Callable[[], float] = time.perf_counter) -> Pilot:
    """Solve a tenth of the data, at most 2000 rows, for at most `limit` seconds, and look at held-out data."""
    dataset, config = workspace.dataset, workspace.config
    size = min(max(1, round(PILOT_SHARE * workspace.full_size)), PILOT_ROWS)
    stratify = dataset.train.targets if dataset.task == "classification" and config.stratify else None
    own = workspace.with_subset(draw(workspace.full_size, size=size, seed=config.seed, stratify=stratify))
    objective, before, began = own.objective("subset"), workspace.ledger.cost, clock()
    curve: list[tuple[int, float]] = []

    def look(state: Any) -> bool:
        curve.append((state.evaluations, state.loss))
        return clock() - began > limit

    solved = minimize_relative(
        objective, objective.initial(), "lbfgs", gtol=config.gtol, max_iterations=config.max_iterations, callback=look
    )
    curve.append((solved.counts["evaluations"], solved.loss))
    seconds = clock() - began
    call = _timed(lambda: objective.value_and_gradient(solved.x, "calibration"), clock, workspace)
    own.refresh_batch_norm(solved.x, "subset")
    here, held_out = own.evaluate(solved.x, "subset"), own.evaluate(solved.x, "validation")
    assert here is not None, "a subset has samples"
    return Pilot(
        samples=objective.n_samples,
        curve=tuple(curve),
        # The cap on iterations ends slow tails only: what is then left is far below any level of the laws.
        converged=solved.stop_reason != "callback",
        loss=training_loss(here),
        penalty=0.5 * config.l2 * float(solved.x.double().square().sum()),
        held_out=None if held_out is None else training_loss(held_out),
        overhead=max(0.0, seconds / max(solved.counts["evaluations"], 1) - call),
        epoch_equivalents=workspace.ledger.cost - before,
        seconds=clock() - began,
    )


def _objective(workspace: Workspace, rows: int) -> Objective:
    inputs, targets = workspace.training_set
    return Objective(
        workspace.flat,
        inputs[:rows],
        targets[:rows],
        loss=workspace.loss,
        l2=workspace.config.l2,
        preprocess=workspace.preprocess,
        meter=workspace.ledger,
    )


def _step_seconds(workspace: Workspace, clock: Callable[[], float]) -> float:
    epochs = STEPS * BATCH / workspace.full_size
    config = PhaseConfig(method="sgd", data="full", role="handoff", epochs=epochs, batch_size=BATCH, lr=1e-6)
    taken = []
    for _ in range(2):
        phase = FirstOrderPhase(config, workspace)
        workspace.ledger.open_phase(epochs)
        state = phase.start(workspace.flat.initial())
        began = clock()
        while phase.terminate(state) is None:
            state = phase.step(state)
        _finish(workspace)
        taken.append((clock() - began) / max(state.iterations, 1))
    workspace.ledger.open_phase(None)
    return min(taken)


def _timed(call: Callable[[], object], clock: Callable[[], float], workspace: Workspace) -> float:
    call()
    taken = []
    for _ in range(REPEATS):
        _finish(workspace)
        began = clock()
        call()
        _finish(workspace)
        taken.append(clock() - began)
    return median(taken)


def _finish(workspace: Workspace) -> None:
    if workspace.device.type == "cuda":
        torch.cuda.synchronize(workspace.device)
