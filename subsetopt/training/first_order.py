"""A first-order phase: SGD, Adam or AdamW on mini-batches that a sampler proposes.

The parameters are one flat vector, so the optimizer of torch works on a single tensor; weights, optimizer state,
sampler state and random states together are the phase's state and are saved exactly. The learning-rate schedule
follows the cost spent, so that it ends with the budget whatever a sampler's selection costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from subsetopt.data.batch_augmentation import Augmentation, make_augmentation
from subsetopt.errors import SettingError
from subsetopt.objective import CrossEntropy, Loss, has_last_layer, make_loss
from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.samplers import Sampler, make_sampler
from subsetopt.seeding import derive_seed, make_generator
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.config import PhaseConfig
from subsetopt.training.mini_batch import MiniBatch
from subsetopt.training.phases import Outcome
from subsetopt.training.schedules import rate_factor
from subsetopt.training.trees import join_tensors, split_tensors
from subsetopt.training.workspace import Workspace

DEFAULT_LR = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3}
RECORDS = 200  # per phase; what lies between two records is one "step" of the phase


@dataclass
class FirstOrderState:
    """Where a first-order phase is. `w` is updated in place; `loss` is the mean over the last record's mini-batches.

    `random` is the state of torch's generator as dropout sees it, `augmentation` that of the augmentation's own.
    `start` and `affordable` are the cost at the start and what may be spent, in epoch-equivalents.
    """

    w: Tensor
    optimizer: torch.optim.Optimizer
    random: Tensor
    augmentation: torch.Generator
    start: float
    affordable: float
    steps: int = 0
    loss: float = math.nan
    stopped: StopReason | None = None


class FirstOrderPhase:
    """Runs SGD, Adam or AdamW on the subset or the full set until its cost is spent."""

    def __init__(self, config: PhaseConfig, workspace: Workspace) -> None:
        self.config = config
        self._workspace = workspace
        self._lr = DEFAULT_LR[config.method] if config.lr is None else config.lr
        self._loss = self._make_loss()
        self._sampler: Sampler = make_sampler(
            config.sampler,
            self.samples,
            min(config.batch_size, self.samples),
            derive_seed(workspace.config.seed, f"{config.role}:{config.sampler}"),
            device=workspace.device,
            **config.sampler_settings,
        )
        self._augmentation = self._make_augmentation()
        self._check()

    @property
    def samples(self) -> int:
        """K for the subset, N for the full set."""
        return len(self._workspace.data(self.config.data)[1])

    @property
    def title(self) -> str:
        """For the progress bar."""
        sampler = "" if self.config.sampler == "full" else f" with {self.config.sampler}"
        return f"{self.config.method}{sampler} on {self.samples} samples"

    @cached_property
    def _mini_batch(self) -> MiniBatch:
        l2 = 0.0 if self._decoupled else self._weight_decay
        return MiniBatch(self._workspace, self.config, self._sampler, self._loss, self._augmentation, l2)

    @property
    def _decoupled(self) -> bool:
        return self.config.method == "adamw"

    @property
    def _weight_decay(self) -> float:
        """The setting, or the run's L2 strength where it means the same; AdamW's own default is torch's 0.01."""
        if self.config.weight_decay is not None:
            return self.config.weight_decay
        return 0.01 if self._decoupled else self._workspace.config.l2

    def start(self, w: Tensor) -> FirstOrderState:
        """Take what the phase may spend, within the run's budget."""
        ledger, seed = self._workspace.ledger, self._workspace.config.seed
        w = w.detach().clone()
        return FirstOrderState(
            w,
            self._make_optimizer(w),
            make_generator(seed, f"{self.config.role}:dropout").get_state(),
            make_generator(seed, f"{self.config.role}:augmentation"),
            ledger.cost,
            ledger.limit - ledger.cost,
        )

    def step(self, state: FirstOrderState) -> FirstOrderState:
        """Take the mini-batch steps between two records, with one host synchronisation at their end."""
        ledger = self._workspace.ledger
        until = ledger.cost + state.affordable / RECORDS
        losses: list[Tensor] = []
        with torch.random.fork_rng():
            torch.set_rng_state(state.random)
            try:
                while not losses or ledger.cost < until:
                    losses += self._mini_batch_step(state)
            except BudgetExhausted:
                whole_run = ledger.limit >= ledger.budget
                state.stopped = StopReason.BUDGET if whole_run else StopReason.SCHEDULE_END
            state.random = torch.get_rng_state()
        if losses:
            state.loss = float(torch.stack(losses).mean())
            if not math.isfinite(state.loss):
                state.stopped = StopReason.NON_FINITE
        return state

    def terminate(self, state: FirstOrderState) -> StopReason | None:
        """Stop when the cost is spent, or when the loss is no longer finite."""
        return state.stopped

    def record(self, state: FirstOrderState) -> dict[str, Any]:
        """Progress in optimizer steps; the loss is that of the mini-batches, with its L2 term."""
        return {
            "iteration": state.steps,
            "loss": state.loss,
            "gradient_norm": None,
            "evaluations": state.steps,
            "products": 0,
            "fraction": self._share_spent(state),
        }

    def details(self) -> dict[str, Any]:
        """What the report says beside the common record."""
        return {"sampler": self.config.sampler, "learning_rate": self._lr, "sampling": self._sampler.statistics()}

    def finish(self, state: FirstOrderState) -> Outcome:
        """Return the last parameters; BatchNorm's running statistics were kept by the training itself."""
        return Outcome(state.w.detach(), state.loss, None)

    def save(self, state: FirstOrderState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Parameters, optimizer, sampler and random states."""
        tensors, parts = split_tensors(
            {
                "w": state.w.detach(),
                "random": state.random,
                "augmentation": state.augmentation.get_state(),
                "optimizer": state.optimizer.state_dict()["state"].get(0, {}),
                "sampler": self._sampler.state_dict(),
            }
        )
        names = ("start", "affordable", "steps", "loss", "stopped")
        return tensors, {"parts": parts, **{name: getattr(state, name) for name in names}}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> FirstOrderState:
        """Rebuild optimizer and sampler as they were."""
        parts = join_tensors(tensors, numbers["parts"])
        w = parts["w"].to(self._workspace.device)
        optimizer = self._make_optimizer(w)
        if parts["optimizer"]:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: parts["optimizer"]}})
        augmentation = torch.Generator()
        augmentation.set_state(parts["augmentation"])
        assert self._mini_batch is not None  # binds the data before the sampler's memory is put back
        self._sampler.load_state_dict(parts["sampler"])
        return FirstOrderState(
            w,
            optimizer,
            parts["random"],
            augmentation,
            numbers["start"],
            numbers["affordable"],
            numbers["steps"],
            numbers["loss"],
            None if numbers["stopped"] is None else StopReason(numbers["stopped"]),
        )

    def _mini_batch_step(self, state: FirstOrderState) -> list[Tensor]:
        rate = self._lr * rate_factor(self.config.schedule, self._share_spent(state))
        computed = self._mini_batch.gradient(state.w, state.augmentation)
        if computed is None:
            return []
        loss, state.w.grad = computed
        state.optimizer.param_groups[0]["lr"] = rate
        state.optimizer.step()
        state.steps += 1
        return [loss]

    def _share_spent(self, state: FirstOrderState) -> float:
        return min((self._workspace.ledger.cost - state.start) / state.affordable, 1.0) if state.affordable > 0 else 1.0

    def _make_optimizer(self, w: Tensor) -> torch.optim.Optimizer:
        w.requires_grad_(True)
        if self.config.method == "sgd":
            return torch.optim.SGD([w], self._lr, momentum=self.config.momentum, nesterov=self.config.nesterov)
        if self.config.method == "adam":
            return torch.optim.Adam([w], self._lr)
        return torch.optim.AdamW([w], self._lr, weight_decay=self._weight_decay)

    def _make_loss(self) -> Loss:
        smoothing = self.config.label_smoothing
        if smoothing and self._workspace.loss != "cross_entropy":
            raise SettingError("label_smoothing", smoothing, "only cross-entropy has it", "use 0")
        return CrossEntropy(smoothing) if smoothing else make_loss(self._workspace.loss)

    def _make_augmentation(self) -> Augmentation | None:
        return make_augmentation(self.config.augmentation, self._workspace.dataset.in_shape)

    def _check(self) -> None:
        """Refuse, before step 0, what a sampler would miss in the middle of the training."""
        sampler, workspace = self._sampler, self._workspace
        if sampler.needs_validation_scan and workspace.split("validation") is None:
            raise SettingError("sampler", sampler.name, "needs held-out data", "set validation_fraction above 0")
        needs_last_layer = sampler.needs_scan or "features" in sampler.needs
        if needs_last_layer and not has_last_layer(workspace.flat):
            raise SettingError(
                "sampler", sampler.name, "needs a model that ends in a linear layer", "use another sampler or model"
            )
        if sampler.needs_scan and workspace.dataset.task != "classification":
            raise SettingError("sampler", sampler.name, "selects per class", "use a classification data set")
