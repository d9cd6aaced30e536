"""A small data set of images, and first-order phases on it that can be run to their end in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from subsetopt.data import Dataset, dataset_from_arrays
from subsetopt.seeding import make_generator
from subsetopt.training.budget import Budget
from subsetopt.training.context import RunContext
from subsetopt.training.phases.first_order.phase import FirstOrderPhase, FirstOrderState
from subsetopt.training.preparation import prepare
from subsetopt.training.settings.run import make_config
from subsetopt.training.training_data import TrainingData

SIDE = 12


class Running(NamedTuple):
    """A phase, what it works on, and its state."""

    phase: FirstOrderPhase
    data: TrainingData
    budget: Budget
    run: RunContext
    state: FirstOrderState

    def finish(self) -> FirstOrderState:
        while self.phase.terminate(self.state) is None:
            self.phase.step(self.state)
        return self.state


def make_images(n: int = 180, classes: int = 3, channels: int = 3, side: int = SIDE) -> Dataset:
    """Noise around one pattern per class, uint8."""
    generator = make_generator(0, "images")
    targets = torch.arange(n) % classes
    patterns = torch.randint(0, 256, (classes, channels, side, side), generator=generator)
    noise = torch.randint(0, 256, (n, channels, side, side), generator=generator)
    images = ((patterns[targets] + 3 * noise) // 4).to(torch.uint8)
    return dataset_from_arrays(images, targets, images[:30], targets[:30], normalize="standard")


def small_net(channels: int = 3, side: int = SIDE, classes: int = 3, norm: bool = False, dropout: float = 0.0) -> Any:
    """A convolution, a nonlinearity and a linear layer, with BatchNorm and dropout where asked."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        middle = [nn.BatchNorm2d(4)] if norm else []
        return nn.Sequential(
            nn.Conv2d(channels, 4, 3),
            *middle,
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(4 * ((side - 2) // 2) ** 2, classes),
        )


@pytest.fixture
def images() -> Dataset:
    return make_images()


@pytest.fixture
def net() -> Callable[..., nn.Module]:
    return small_net


@pytest.fixture
def begin() -> Callable[..., Running]:
    """Return `begin(model, dataset, **settings) -> Running`: the last phase that the settings of a run mean."""

    def call(model: nn.Module | None = None, dataset: Dataset | None = None, **settings: Any) -> Running:
        given = {"solver": "none", "handoff": "sgd", "handoff_epochs": 3, "handoff_batch_size": 16, **settings}
        module = (model or small_net()).double() if settings.get("dtype") == "float64" else model or small_net()
        data, budget, run = prepare(make_config(given), module, dataset or make_images())
        phase = FirstOrderPhase(run.config.phases()[-1], data, budget, run)
        budget.ledger.open_phase(phase.config.epochs)
        return Running(phase, data, budget, run, phase.start(run.model.flat.initial()))

    return call
