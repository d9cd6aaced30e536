"""A first-order phase: an optimizer such as SGD or Adam on mini-batches that a sampler proposes.

The parameters are one flat vector, so the optimizer of torch works on a single tensor; weights, optimizer state,
sampler state and random states together are the phase's state and are saved exactly. The learning-rate schedule
follows the cost spent, so that it ends with the budget whatever a sampler's selection costs; under a limit in seconds
it follows cost or seconds, whichever is further on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from subsetopt.data.batch_augmentation import make_augmentation
from subsetopt.documents.run import LossOf
from subsetopt.objective.host import host_read
from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.samplers import Sampler
from subsetopt.saving import join, split
from subsetopt.seeding import make_generator
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.budget import Budget, PhaseBudget, record_of
from subsetopt.training.context import RunContext
from subsetopt.training.phases.first_order.held_out import HeldOutChecks
from subsetopt.training.phases.first_order.mini_batch import MiniBatch
from subsetopt.training.phases.first_order.optimizers import OPTIMIZERS
from subsetopt.training.phases.first_order.schedules import rate_factor
from subsetopt.training.phases.first_order.setup import (
    check_affordable,
    check_optimizer,
    check_phase,
    coupled_l2_of,
    learning_rate,
    loss_of,
    optimizer_of,
    sampler_of,
    schedule_of,
    weight_decay_of,
)
from subsetopt.training.phases.first_order.vector_optimizer import VectorOptimizer
from subsetopt.training.phases.loss_trend import LossTrend, upgraded_trend
from subsetopt.training.phases.protocol import PhaseOutcome
from subsetopt.training.phases.random_streams import installed, new_states
from subsetopt.training.settings.phase import PhaseConfig
from subsetopt.training.training_data import TrainingData

RECORDS = 200  # per phase; what lies between two records is one "step" of the phase


@dataclass
class FirstOrderState:
    """Where a first-order phase is. `w` is updated in place; `loss` is the mean over the last record's mini-batches.

    `random` has the states of torch's generators as the model's dropout sees them, `augmentation` is the augmentation's
    own generator.
    """

    w: Tensor
    optimizer: VectorOptimizer
    random: dict[str, Tensor]
    augmentation: torch.Generator
    budget: PhaseBudget
    sampler: Sampler
    checks: HeldOutChecks | None
    iterations: int = 0
    loss: float = math.nan
    trend: LossTrend = field(default_factory=LossTrend)
    stopped: StopReason | None = None


class FirstOrderPhase:
    """Runs an optimizer on subset or full set until its cost is spent, or the held-out test ends it.

    `index` is the phase's place in the run: two phases that are otherwise alike draw different batches.
    """

    def __init__(
        self, config: PhaseConfig, data: TrainingData, budget: Budget, run: RunContext, index: int = 0
    ) -> None:
        self.config = config
        self._data, self._budget, self._run, self._model = data, budget, run, run.model
        self._stream = f"{index}:{config.role}"
        check_optimizer(config, run)
        self._lr = learning_rate(config)
        self._schedule = partial(rate_factor, schedule_of(config), warmup=config.wsd_warmup, decay=config.wsd_decay)
        self._loss = loss_of(config, run)
        self._sampler: Sampler = sampler_of(config, data, budget, run, self.samples, self._stream)
        self._augmentation = make_augmentation(config.augmentation, data.dataset.in_shape)
        self._trend: dict[str, float] = {}
        self._checks = HeldOutChecks(data, budget, run.model) if config.stop_at == "validation" else None
        check_phase(config, data, run, self._sampler)
        check_affordable(config, budget.ledger, run.config, self._sampler.name, self._mini_batch.bind_rows)

    @property
    def _weight_decay(self) -> float:
        return weight_decay_of(self.config, self._model.l2)  # that the run has now: a phase before may have chosen it

    @property
    def _coupled_l2(self) -> float:
        return coupled_l2_of(self.config, self._model.l2)

    @property
    def samples(self) -> int:
        """K for the subset, N for the full set."""
        return self._data.samples(self.config.split)

    @property
    def loss_of(self) -> LossOf:
        """The mean over the latest mini-batches; L2 is part of it, decoupled weight decay is not."""
        penalised = not self._decoupled or self._coupled_l2 > 0
        return LossOf.MINI_BATCHES if penalised else LossOf.MINI_BATCHES_WITHOUT_DECAY

    @property
    def title(self) -> str:
        """For the progress bar."""
        sampler = "" if self.config.sampler == "full" else f" with {self.config.sampler}"
        return f"{self.config.method}{sampler} on {self.samples} samples"

    @property
    def least_cost(self) -> float:
        """What the sampler looks at before its first batch, that batch, and the held-out check kept for the end."""
        return self._mini_batch.first_step_cost + (0.0 if self._checks is None else self._checks.cost)

    @cached_property
    def _mini_batch(self) -> MiniBatch:
        config = self.config
        return MiniBatch(
            self._data,
            self._budget.ledger,
            self._run,
            config.split,
            self._sampler,
            self._loss,
            self._augmentation,
            config.amp,
        )

    @property
    def fixed_length(self) -> str | None:
        """The learning rate, records and held-out checks follow the share of the cost that is spent."""
        if (schedule := schedule_of(self.config)) != "constant":
            return f"its {schedule} learning-rate schedule ended with its budget"
        return "records and held-out checks were planned for its budget, and a mini-batch beyond it was drawn already"

    def start(self, w: Tensor) -> FirstOrderState:
        """Take what the phase may spend, within the run's budget, and prepare the sampler on the data."""
        seed, device = self._run.config.seed, self._data.device
        # What is reserved is kept for the check of the last parameters.
        budget = self._budget.for_phase(0.0 if self._checks is None else self._checks.cost)
        if self._checks is not None:
            self._checks.begin(budget.affordable)
        w = w.detach().clone()
        state = FirstOrderState(
            w,
            self._optimizer(w),
            new_states(seed, f"{self._stream}:dropout", device),
            make_generator(seed, f"{self._stream}:augmentation"),
            budget,
            self._sampler,
            self._checks,
        )
        self._mini_batch.bind()
        return state

    def step(self, state: FirstOrderState) -> FirstOrderState:
        """Take the mini-batch steps between two records, with one host synchronisation at their end."""
        enough = state.budget.part(RECORDS)
        losses: list[Tensor] = []
        with installed(state.random, self._data.device):
            try:
                while not losses or not enough():
                    self._mini_batch_step(state, losses)
            except BudgetExhausted:
                state.stopped = state.budget.end if state.iterations else StopReason.BUDGET
        if losses:
            strength = self._coupled_l2 if self._decoupled else self._weight_decay
            penalty = 0.5 * strength * state.w.detach().square().sum() if strength else 0.0
            (state.loss,) = host_read((torch.stack(losses).mean() + penalty).reshape(1))
            state.trend.take(state.loss)
            if not math.isfinite(state.loss):
                state.stopped = StopReason.NON_FINITE
        if state.stopped is None and self._checks is not None:
            state.stopped = self._checks.check(replace(state, w=self.iterate(state)), state.budget.end)
        return state

    def terminate(self, state: FirstOrderState) -> StopReason | None:
        """Stop when the cost is spent, the held-out loss has stopped improving, or the loss is no longer finite."""
        return state.stopped

    def record(self, state: FirstOrderState) -> dict[str, Any]:
        """Progress in optimizer steps; the loss is the mean over mini-batches, plus l2/2 ||w||^2 unless decoupled."""
        return record_of(state)

    def iterate(self, state: FirstOrderState) -> Tensor:
        """Return the current parameters; of an optimizer that averages, the average."""
        return state.optimizer.evaluated(state.w)

    def details(self) -> dict[str, Any]:
        """What the report says beside the common record."""
        return {
            "sampler": self.config.sampler,
            "learning_rate": self._lr,
            "sampling": self._sampler.statistics(),
            **self._trend,
        }

    def finish(self, state: FirstOrderState) -> PhaseOutcome:
        """Return the last parameters, or the best checked on held-out data; BatchNorm's statistics go with them."""
        last, self._trend = self.iterate(state), state.trend.details()
        chosen = last if self._checks is None else self._checks.choose(last)
        return PhaseOutcome(chosen, state.loss if chosen is last else None, None)

    def save(self, state: FirstOrderState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Parameters, optimizer, sampler, held-out test and random states."""
        return split(state)

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> FirstOrderState:
        """Rebuild optimizer, sampler and held-out test as they were."""
        device = self._data.device
        on_device = {name: t if _on_host(name) else t.to(device) for name, t in tensors.items()}
        w = on_device["w"].clone()
        return join(
            FirstOrderState,
            on_device,
            upgraded_trend(numbers),
            w=w,
            optimizer=self._optimizer(w),
            sampler=self._sampler,
            checks=self._checks,
            ledger=self._budget.ledger,
            clock=self._budget.clock,
        )

    def _optimizer(self, w: Tensor) -> VectorOptimizer:
        optimizer = optimizer_of(self.config, self._model.flat, w, self._lr, self._weight_decay)
        return VectorOptimizer(optimizer, OPTIMIZERS.get(self.config.method).step_work)

    @property
    def _decoupled(self) -> bool:
        return OPTIMIZERS.get(self.config.method).decoupled_decay is not None

    def _mini_batch_step(self, state: FirstOrderState, losses: list[Tensor]) -> None:
        rate = self._lr * self._schedule(state.budget.share_spent)
        computed = self._mini_batch.gradient(state.w, state.augmentation)
        if computed is None:
            return
        loss, state.w.grad = computed
        if self.config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(state.w, self.config.clip_norm)
        if self._coupled_l2:  # after clipping, where torch's optimizers have theirs
            state.w.grad.add_(state.w.detach(), alpha=self._coupled_l2)
        if flops := state.optimizer.step(rate):
            self._budget.ledger.enter(flops, "arithmetic")
        state.iterations += 1
        losses.append(loss)


def _on_host(name: str) -> bool:
    """Whether a tensor of a checkpoint belongs on the host: states of generators, and the optimizer's count of steps.

    Adam reads its count with every step, and that would wait for a GPU.
    """
    return name.startswith(("random/", "augmentation")) or (name.startswith("optimizer/") and name.endswith("/step"))
