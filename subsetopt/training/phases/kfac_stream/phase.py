"""`kfac-stream`: a stream of fresh subsets, one K-FAC step on each.

Every sample is seen once per pass over the data, in consecutive slices of a random order. Subsets grow, damping and
rate fall with the share of the cost (or seconds) spent, so that the method ends with its budget. A guard goes back to
the last good point when the loss of a new subset jumps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from subsetopt.documents.run import LossOf
from subsetopt.errors import SettingError
from subsetopt.objective import make_loss
from subsetopt.objective.host import host_read
from subsetopt.objective.kfac.damping import KfacSpectrum
from subsetopt.objective.kfac.estimate import Kfac
from subsetopt.objective.kfac.moments import LOOKED_AT
from subsetopt.objective.losses import has_floor
from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.saving import join, split
from subsetopt.seeding import make_generator
from subsetopt.solvers.inner_products import dot
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.budget import Budget, record_of
from subsetopt.training.context import RunContext
from subsetopt.training.phases.kfac_stream.fresh_subsets import FreshSubsets, statistics_samples
from subsetopt.training.phases.kfac_stream.least_damping import PASSES
from subsetopt.training.phases.kfac_stream.noise import GradientNoise
from subsetopt.training.phases.kfac_stream.plateau import Plateau
from subsetopt.training.phases.kfac_stream.settings import EARLIER_RATE, SMALLEST, stream_settings
from subsetopt.training.phases.kfac_stream.state import StreamState, before_evidence, before_noise, upgraded
from subsetopt.training.phases.kfac_stream.stepping import Inertia, Stepping
from subsetopt.training.phases.protocol import PhaseOutcome
from subsetopt.training.phases.random_streams import new_states
from subsetopt.training.settings.names import setting_name
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.training_data import TrainingData

GOOD_EVERY = 10  # steps between two good points
CAUTION, RECOVERY = 0.5, 1.02  # a jump halves the rate and makes the damping fourfold; they come back step by step
FEW = 10  # steps, below which it is said that factors are too dear here
LOST = 12  # jumps in a row that end the phase
DEAR = 32  # samples, whose gradients a product with the factors may cost before these keep few eigenvectors


class StreamPhase:
    """Runs `kfac-stream` on the subset or the full set until its cost is spent; `index` is its place in the run."""

    def __init__(
        self, config: PhaseConfig, data: TrainingData, budget: Budget, run: RunContext, index: int = 0
    ) -> None:
        self.config = config
        self._data, self._budget, self._run, self._model = data, budget, run, run.model
        self._stream = f"{index}:{config.role}"
        self._settings = stream_settings(config.settings, self.samples)
        if config.stop_at != "minimum":
            name = setting_name(run.config, config, "stop_at")
            raise SettingError(name, config.stop_at, "kfac-stream ends with its cost alone", "use minimum")
        if self.samples < 2:
            name = setting_name(run.config, config, "method")
            raise SettingError(name, config.method, "needs at least two samples", "use another solver")
        self._subsets = FreshSubsets(data, budget.ledger, run, config.split, self._stream, make_loss(run.model.loss))
        self._loss = self._subsets.loss
        self._kfac = Kfac(run.model.flat, self._loss, draw=self._settings.draw, memory=self._settings.memory)
        self._stepping = self._rules(constant=False)
        self._known: tuple[int, KfacSpectrum] | None = None
        self._counts: dict[str, float] = {}
        if self._kfac.note:
            few = torch.arange(min(LOOKED_AT, self.samples), device="cpu")
            self._kfac.look(run.model.flat.initial(), self._subsets.batch(few)[0])
        if self._kfac.note:
            run.warnings.append(self._kfac.note)

    @property
    def samples(self) -> int:
        """K for the subset, N for the full set."""
        return self._data.samples(self.config.split)

    @property
    def loss_of(self) -> LossOf:
        """The loss on each fresh mini-batch before its step, with L2."""
        return LossOf.FRESH_BATCH

    @property
    def title(self) -> str:
        """For the progress bar."""
        return f"{self.config.method} on {self.samples} samples"

    @property
    def least_cost(self) -> float:
        """The gradient of the first subset; what its factors cost depends on the model and comes on top."""
        settings = self._settings
        smallest = SMALLEST if settings.subset_min == "auto" else settings.size(0.0)
        return self._budget.ledger.price("gradient", min(smallest, self.samples))

    @property
    def fixed_length(self) -> str | None:
        """Batches, damping and rate follow the share of the cost that is spent."""
        return "batch sizes, damping and rate were planned for its budget"

    def start(self, w: Tensor) -> StreamState:
        """Take what the phase may spend, within the run's budget; nothing is evaluated yet."""
        ledger, seed = self._budget.ledger, self._run.config.seed
        w = w.detach().clone()
        statistics = statistics_samples(self._model.flat, ledger, self.samples, ledger.limit - ledger.cost)
        budget = self._budget.for_phase(ledger.price("forward", statistics))
        long = PASSES < self._stepping.passes(budget) < math.inf
        return StreamState(
            w,
            torch.zeros_like(w),
            w,  # good as long as no step is taken, before which it is copied
            self._model.flat.buffers(),
            new_states(seed, f"{self._stream}:dropout", self._data.device),
            make_generator(seed, f"{self._stream}:factors"),
            budget,
            self._kfac,
            noise=GradientNoise(population=self.samples if long else 0, rescaled=long),
            plateau=Plateau(known=long),
            statistics=statistics,
        )

    def step(self, state: StreamState) -> StreamState:
        """Take one step on one fresh subset; one host synchronisation, and two more where factors are estimated."""
        try:
            with self._budget.ledger.arithmetic():
                if self._estimate_due(state):
                    self._estimate(state)
                self._advance(state)
        except BudgetExhausted:
            state.stopped = state.budget.end if state.iterations else StopReason.BUDGET
        return state

    def terminate(self, state: StreamState) -> StopReason | None:
        """Stop when the cost is spent, or when one jump follows the other."""
        return state.stopped

    def record(self, state: StreamState) -> dict[str, Any]:
        """Progress in steps; the loss is that of the last subset before its step, with l2/2 ||w||^2."""
        return record_of(state)

    def iterate(self, state: StreamState) -> Tensor:
        """Return the current parameters; free of charge."""
        self._subsets.refresh_batch_norm(state.w, state.statistics, "evaluation")
        return state.w

    def details(self) -> dict[str, Any]:
        """What the report says beside the common record."""
        return {"rate": self._stepping.settings.rate, **self._counts}

    def finish(self, state: StreamState) -> PhaseOutcome:
        """Return the last parameters, with BatchNorm's statistics to match. Their loss on all samples is not known."""
        self._subsets.refresh_batch_norm(state.w, state.statistics, "calibration")
        calls = state.iterations + state.estimates
        self._counts = {"sequential_calls": calls, "estimates": state.estimates, "returns": state.returns}
        self._counts |= state.trend.details()
        spent = self._budget.ledger.cost - state.budget.began
        if state.iterations < FEW and state.estimate_cost > 0.5 * spent:
            self._run.warnings.append(
                f"kfac-stream: steps taken: {state.iterations}, as its factors took "
                f"{100 * state.estimate_cost / spent:.0f} % of its cost; give it more, or use a first-order method"
            )
        return PhaseOutcome(state.w, None, None)

    def save(self, state: StreamState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Parameters, momentum, factors, guard and random states."""
        return split(state)

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> StreamState:
        """Rebuild everything as it was."""
        device, on_host = self._data.device, ("random/", "generator", "kfac/updates", "kfac/vectors")
        moved = {name: t if name.startswith(on_host) else t.to(device) for name, t in tensors.items()}
        ledger, clock = self._budget.ledger, self._budget.clock
        if before_evidence(numbers):
            self._stepping = self._rules(constant=before_noise(numbers), rate=EARLIER_RATE)
        return join(StreamState, moved, upgraded(numbers), kfac=self._kfac, ledger=ledger, clock=clock)

    def _estimate_due(self, state: StreamState) -> bool:
        """Whether a jump has shown the factors to be stale, or the cost that they may take in all allows new ones."""
        share = state.budget.share_spent
        return state.stale or state.estimate_cost < self._settings.factor_cost(share, state.budget.total(share))

    def _estimate(self, state: StreamState) -> None:
        """Estimate factors on samples of their own, so that they are independent of the gradient."""
        rows = self._subsets.random_rows(self._settings.factor_samples, state.generator)
        share = self._subsets.share(len(rows))
        before = self._budget.ledger.cost
        x, y = self._subsets.batch(rows[share.places.to(rows.device)])
        known = self._kfac.note
        operation = self._budget.ledger.price("flops", 1)
        if state.by_price and operation > 0:
            self._kfac.dear = self._budget.ledger.price("gradient", DEAR) / operation
        self._kfac.update(state.w, x, y, state.generator, self._budget.ledger, share)
        if self._kfac.note != known:  # an estimate shows which layers are not called as such
            note = [self._kfac.note] if self._kfac.note else []
            self._run.warnings[:] = [text for text in self._run.warnings if text != known] + note
        size = self._stepping.last_size(state.noise, state.budget.share_spent)
        state.change.watch(rows, size, self._model.flat.batch_dependent)
        state.estimate_cost += self._budget.ledger.cost - before
        state.estimates += 1
        state.stale = False
        if state.carried and state.curvature:
            state.curvature = float(dot(state.velocity, self._kfac.product(state.velocity)))

    def _rules(self, constant: bool, **defaults: float) -> Stepping:
        """Return the rules of the steps: with `constant`, those of an earlier version, which knew no noise.

        `defaults` are others than those of this version.
        """
        settings = stream_settings({**defaults, **self.config.settings}, self.samples, constant=constant)
        normed, spread = self._model.flat.batch_dependent, self._data.spread
        return Stepping(settings, self._kfac, self.samples, normed, spread, has_floor(self._loss))

    def _advance(self, state: StreamState) -> None:
        rules, share, change = self._stepping, state.budget.share_spent, state.change
        self._spectrum()  # now, while there are no gradients in memory
        size = rules.size(state.noise, state.budget, share)
        changed = change.measure(*self._subsets.outputs(state.w, change.rows), self._loss)
        halves = rules.halves_due(state.noise, state.budget, size)
        measured = self._subsets.measure(state.w, state.place, size, state.random, halves)
        damping = rules.damping(self._spectrum(), size, state)
        if state.least.known and not state.iterations:
            damping = rules.first_damping(self._spectrum(), measured, damping, self._data.spread, state)
        found, momentum = rules.direction(measured, damping), rules.momentum(state.noise, size)
        inertia, velocity = self._moved(state, measured.gradient, found.vector, damping, momentum)
        figures = [measured.loss, measured.error, inertia, changed, found.product, found.whole]
        read = host_read(torch.stack([figure.double() for figure in figures]))
        state.loss, error, curvature, last_change, product, whole = read
        state.iterations += 1
        state.trend.take(state.loss)
        change.learn(last_change)
        if not (state.guard.admits(state.loss, error) and math.isfinite(curvature)):
            self._return(state)
            return
        if halves:
            state.noise.learn(product, whole, measured.samples)
            noise = (whole - product) * measured.samples
            admitted = rules.admitted(state.noise, state.budget, measured.samples)
            state.least.learn(self._spectrum(), damping, noise, self._data.spread, state.caution, admitted)
        state.plateau.take(state.loss, state.noise.enough)
        if state.iterations % GOOD_EVERY == 1:
            state.good, state.good_buffers = state.w.clone(), self._model.flat.buffers()
        rate = rules.settings.step_rate(share) * state.caution * state.plateau.factor
        state.velocity, state.curvature = velocity, curvature
        state.w.sub_(velocity, alpha=self._length(state, rate, rules.trust(state, size)))
        state.caution = min(1.0, state.caution * RECOVERY)

    def _length(self, state: StreamState, rate: float, bound: float) -> float:
        """Return how far to step along the velocity: at first that is tried, for another synchronisation."""
        change = state.change
        length = change.length(rate, bound, state.curvature)
        if not change.trials:
            return length
        outputs, targets = self._subsets.outputs(state.w - length * state.velocity, change.rows)
        (found,) = host_read(change.to(outputs, targets, self._loss).reshape(1))
        return change.tried(length, found, bound)

    def _moved(
        self, state: StreamState, gradient: Tensor, vector: Tensor, damping: float, momentum: float
    ) -> tuple[Tensor, Tensor]:
        """Return v'Fv, and the velocity v = vector + momentum * velocity, which takes the place of `vector`."""
        if not state.carried:
            velocity = vector.add_(state.velocity, alpha=momentum)
            return dot(velocity, self._kfac.product(velocity)), velocity
        before = Inertia(state.velocity, state.curvature)
        inertia = self._stepping.inertia(gradient, vector, damping, momentum, before)
        return inertia, vector.add_(state.velocity, alpha=momentum)

    def _spectrum(self) -> KfacSpectrum:
        """Return the eigenvalues of the factors as they are."""
        if self._known is None or self._known[0] != self._kfac.updates:
            self._known = self._kfac.updates, self._kfac.spectrum()
        return self._known[1]

    def _return(self, state: StreamState) -> None:
        """Go back to the last good point, at rest, to take smaller and more damped steps."""
        state.w, state.velocity = state.good.clone(), torch.zeros_like(state.good)
        self._model.flat.load_buffers(state.good_buffers)
        state.curvature = 0.0
        state.change.forget()
        state.caution *= CAUTION
        state.returns += 1
        state.stale = True
        if state.guard.jumps >= LOST:
            state.stopped = StopReason.NON_FINITE
