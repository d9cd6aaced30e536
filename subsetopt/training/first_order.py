"""A first-order phase: SGD, Adam or AdamW on mini-batches that a sampler proposes.

The parameters are one flat vector, so the optimizer of torch works on a single tensor; weights, optimizer state,
sampler state and random state together are the phase's state and are saved exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subsetopt.objective.losses import make_loss
from subsetopt.objective.protocol import BudgetExhausted
from subsetopt.samplers import Sampler, make_sampler
from subsetopt.seeding import derive_seed, make_generator
from subsetopt.solvers.protocol import StopReason
from subsetopt.training.config import PhaseConfig
from subsetopt.training.schedules import rate_factor
from subsetopt.training.workspace import Workspace

DEFAULT_LR = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3}
RECORDS = 200  # per phase; between two records lies one "step" of the phase


@dataclass
class FirstOrderState:
    """Where a first-order phase is. `w` is updated in place; `loss` is the mean over the last record's mini-batches."""

    w: Tensor
    optimizer: torch.optim.Optimizer
    random: Tensor
    steps: int
    planned: int
    loss: float = math.nan
    stopped: StopReason | None = None


class FirstOrderPhase:
    """Runs SGD, Adam or AdamW on the subset or the full set for a planned number of steps."""

    def __init__(self, config: PhaseConfig, workspace: Workspace) -> None:
        self.config = config
        self._workspace = workspace
        self._loss = make_loss(workspace.loss)
        self._lr = DEFAULT_LR[config.method] if config.lr is None else config.lr
        self._sampler: Sampler = make_sampler(
            config.sampler,
            self.samples,
            min(config.batch_size, self.samples),
            derive_seed(workspace.config.seed, f"{config.role}:{config.sampler}"),
            **config.sampler_settings,
        )

    @property
    def samples(self) -> int:
        """K for the subset, N for the full set."""
        return len(self._workspace.data(self.config.data)[1])

    @property
    def title(self) -> str:
        """For the progress bar."""
        return f"{self.config.method} on {self.samples} samples"

    def start(self, w: Tensor) -> FirstOrderState:
        """Plan the steps that the phase's cost admits."""
        ledger = self._workspace.ledger
        assert self.config.epochs is not None, "the configuration refuses first-order phases without epochs"
        affordable = min(self.config.epochs, ledger.limit - ledger.cost)
        planned = math.floor(affordable / ledger.price("gradient", self._sampler.batch_size) + 1e-9)
        w = w.detach().clone()
        random = make_generator(self._workspace.config.seed, f"{self.config.role}:dropout").get_state()
        return FirstOrderState(w, self._make_optimizer(w), random, 0, planned)

    def step(self, state: FirstOrderState) -> FirstOrderState:
        """Take as many mini-batch steps as lie between two records, with one host synchronisation."""
        losses: list[Tensor] = []
        with torch.random.fork_rng():
            torch.set_rng_state(state.random)
            try:
                for _ in range(min(math.ceil(state.planned / RECORDS), state.planned - state.steps)):
                    losses.append(self._mini_batch_step(state))
                    state.steps += 1
            except BudgetExhausted:
                state.stopped = StopReason.BUDGET
            state.random = torch.get_rng_state()
        if losses:
            state.loss = float(torch.stack(losses).mean())
        if not math.isfinite(state.loss):
            state.stopped = StopReason.NON_FINITE
        return state

    def terminate(self, state: FirstOrderState) -> StopReason | None:
        """Stop at the end of the plan, at the budget, or when the loss is no longer finite."""
        return state.stopped or (StopReason.SCHEDULE_END if state.steps >= state.planned else None)

    def record(self, state: FirstOrderState) -> dict[str, Any]:
        """Progress in mini-batch steps; the loss is that of the mini-batches, with its L2 term."""
        return {
            "iteration": state.steps,
            "loss": state.loss,
            "gradient_norm": None,
            "evaluations": state.steps,
            "products": 0,
            "fraction": state.steps / state.planned if state.planned else 1.0,
        }

    def finish(self, state: FirstOrderState) -> Tensor:
        """Return the last parameters; BatchNorm's running statistics were kept by the training itself."""
        return state.w.detach()

    def save(self, state: FirstOrderState) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Parameters, optimizer, sampler and random state."""
        tensors, numbers = split_tensors(
            {
                "w": state.w.detach(),
                "random": state.random,
                "optimizer": state.optimizer.state_dict()["state"].get(0, {}),
                "sampler": self._sampler.state_dict(),
            }
        )
        return tensors, {
            "parts": numbers,
            "steps": state.steps,
            "planned": state.planned,
            "loss": state.loss,
            "stopped": state.stopped,
        }

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> FirstOrderState:
        """Rebuild optimizer and sampler as they were."""
        parts = join_tensors(tensors, numbers["parts"])
        self._sampler.load_state_dict(parts["sampler"])
        w = parts["w"].to(self._workspace.device)
        optimizer = self._make_optimizer(w)
        saved = optimizer.state_dict()
        if parts["optimizer"]:
            saved["state"] = {0: parts["optimizer"]}
        optimizer.load_state_dict(saved)
        stopped = None if numbers["stopped"] is None else StopReason(numbers["stopped"])
        return FirstOrderState(
            w, optimizer, parts["random"], numbers["steps"], numbers["planned"], numbers["loss"], stopped
        )

    def _mini_batch_step(self, state: FirstOrderState) -> Tensor:
        batch = self._sampler.propose()
        self._workspace.ledger.charge("gradient", len(batch.indices), "train")
        inputs, targets = self._workspace.data(self.config.data)
        indices = batch.indices.to(inputs.device)
        outputs = self._workspace.flat.forward(state.w, self._workspace.preprocess(inputs[indices]), mode="train")
        losses = self._loss.per_sample(outputs, targets[indices])
        loss = losses.mean() if batch.weights is None else (losses * batch.weights.to(losses)).mean()
        if self.config.method != "adamw":
            loss = loss + 0.5 * self._workspace.config.l2 * state.w.dot(state.w)
        (state.w.grad,) = torch.autograd.grad(loss, state.w)
        rate = self._lr * rate_factor(self.config.schedule, state.steps, state.planned)
        state.optimizer.param_groups[0]["lr"] = rate
        state.optimizer.step()
        return loss.detach()

    def _make_optimizer(self, w: Tensor) -> torch.optim.Optimizer:
        w.requires_grad_(True)
        if self.config.method == "sgd":
            return torch.optim.SGD([w], self._lr, momentum=self.config.momentum, nesterov=self.config.nesterov)
        if self.config.method == "adam":
            return torch.optim.Adam([w], self._lr)
        return torch.optim.AdamW([w], self._lr)


def split_tensors(tree: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a nested dict into a flat dict of tensors and a nested dict of JSON-able numbers."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Tensor):
            tensors[prefix + key] = value
        elif isinstance(value, Mapping):
            inner, numbers[key] = split_tensors(value, f"{prefix}{key}/")
            tensors |= inner
        else:
            numbers[key] = value
    return tensors, numbers


def join_tensors(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `split_tensors`."""
    tree: dict[str, Any] = {key: join_tensors({}, v) if isinstance(v, Mapping) else v for key, v in numbers.items()}
    for path, tensor in tensors.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = tensor
    return tree
