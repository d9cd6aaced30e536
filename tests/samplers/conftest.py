"""A small problem with known losses, and the loop of the protocol around any sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from subsetopt.samplers import Batch, Scan, make_sampler
from subsetopt.samplers.base import QueueSampler
from subsetopt.samplers.last_layer import residuals


@dataclass(frozen=True)
class Problem:
    """Fixed outputs of a model on n samples of 3 classes: features `(n, 4)`, probabilities `(n, 3)`, losses `(n,)`."""

    features: Tensor
    targets: Tensor
    probabilities: Tensor
    losses: Tensor

    @property
    def scan(self) -> Scan:
        return Scan(residuals(self.probabilities, self.targets), self.features, self.targets)


def make_problem(n: int = 90, seed: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 4, generator=generator)
    targets = torch.randint(3, (n,), generator=generator)
    probabilities = (features @ torch.randn(4, 3, generator=generator)).softmax(1)
    losses = -probabilities.gather(1, targets[:, None])[:, 0].log()
    return Problem(features, targets, probabilities, losses)


def drive(sampler: QueueSampler, problem: Problem, steps: int) -> list[Batch | None]:
    """Run the loop of the protocol for `steps` proposals and return what was trained on."""
    trained: list[Batch | None] = []
    for _ in range(steps):
        if sampler.scan_due:
            sampler.refresh(problem.scan, problem.scan)
        batch: Batch | None = sampler.propose()
        assert batch is not None
        if sampler.selection_due:
            i = batch.indices
            batch = sampler.select(
                batch, problem.losses[i], problem.probabilities[i], problem.features[i], problem.targets[i]
            )
        trained.append(batch)
        if batch is not None:
            i = batch.indices
            sampler.observe(i, problem.losses[i], problem.probabilities[i], problem.features[i], problem.targets[i])
    return trained


@pytest.fixture
def problem() -> Problem:
    return make_problem()


@pytest.fixture
def problems() -> Callable[..., Problem]:
    return make_problem


@pytest.fixture
def loop() -> Callable[[QueueSampler, Problem, int], list[Batch | None]]:
    return drive


@pytest.fixture
def bound() -> Callable[..., QueueSampler]:
    """Make a sampler for a problem and let it look at the inputs."""

    def make(name: str, problem: Problem, batch_size: int = 8, seed: int = 0, **settings: object) -> QueueSampler:
        sampler = make_sampler(name, len(problem.targets), batch_size, seed=seed, **settings)  # type: ignore[arg-type]
        sampler.bind(problem.features)
        return sampler

    return make
