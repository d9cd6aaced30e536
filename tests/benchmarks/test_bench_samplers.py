"""What samplers cost the host per step, beside the step of a CIFAR ResNet that they choose the rows for.

Run with `pytest tests/benchmarks/test_bench_samplers.py --benchmark-only -o addopts=--import-mode=importlib`. A sampler
is charged its own work here: proposing, selecting and observing, without the model's forward passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from subsetopt.models import build_model
from subsetopt.samplers import make_sampler
from subsetopt.seeding import make_generator

N, BATCH, CLASSES, FEATURES = 50_000, 128, 10, 64
PER_BATCH = ("full", "srs", "p-sgd", "c-sgd", "nw-sketch", "selective-backprop", "gradient-matching")


def step_of(name: str) -> Callable[[], None]:
    """Return one turn of the protocol's loop with outputs that a model might have given, made beforehand."""
    generator = make_generator(0, "benchmark")
    targets = torch.randint(0, CLASSES, (N,), generator=generator)
    probabilities = (2 * torch.randn(N, CLASSES, generator=generator)).softmax(1)
    features = torch.randn(N, FEATURES, generator=generator)
    losses = -probabilities.gather(1, targets[:, None])[:, 0].log()
    sampler = make_sampler(name, N, BATCH)
    sampler.bind(torch.randint(0, 256, (N, 3, 32, 32), dtype=torch.uint8, generator=generator))

    def step() -> None:
        batch: Any = sampler.propose()
        seen = batch.indices
        if sampler.selection_due:
            batch = sampler.select(batch, losses[seen], probabilities[seen], features[seen], targets[seen])
        if batch is not None:
            seen = batch.indices
            sampler.observe(seen, losses[seen], probabilities[seen], features[seen], targets[seen])

    for _ in range(sampler.steps_per_epoch + 1):  # past the first epoch, in which selective backprop accepts all
        step()
    return step


@pytest.mark.benchmark(group="per step")
@pytest.mark.parametrize("name", PER_BATCH)
def test_a_sampler_s_own_work(benchmark: Any, name: str) -> None:
    step = step_of(name)
    benchmark.pedantic(step, rounds=300, warmup_rounds=10)


@pytest.mark.benchmark(group="per step")
def test_the_training_step_of_a_cifar_resnet(benchmark: Any) -> None:
    model = build_model("resnet", in_shape=(3, 32, 32), n_outputs=CLASSES)
    x = torch.randn(BATCH, 3, 32, 32, generator=make_generator(0, "benchmark"))
    y = torch.arange(BATCH) % CLASSES

    def step() -> None:
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()

    benchmark.pedantic(step, rounds=4, warmup_rounds=1)
