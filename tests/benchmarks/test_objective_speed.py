"""Timings (run with `--benchmark-only`): the objective against bare torch, products against gradients, and L-BFGS's
direction in Gram form against the recursion over a list of pairs."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from subsetopt.bench.images import Images, synthetic_images
from subsetopt.models import build_model
from subsetopt.objective import Objective
from subsetopt.seeding import make_generator
from subsetopt.solvers.curvature_pairs import GAMMA_PAIRS, CurvaturePairs

SAMPLES, L2 = 500, 1e-3
Benchmark = Callable[[Callable[[], Any]], Any]


@pytest.fixture(scope="module")
def images() -> Images:
    return synthetic_images(SAMPLES)


def _objective(images: Images, model: str) -> Objective:
    net = build_model(model, in_shape=(1, 28, 28), n_outputs=10)
    return Objective(net, images.inputs, images.targets, l2=L2)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.benchmark(group="gradient")
def test_value_and_gradient(benchmark: Benchmark, images: Images, model: str) -> None:
    objective = _objective(images, model)
    w = objective.initial()
    benchmark(lambda: objective.value_and_gradient(w))


@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.benchmark(group="gradient")
def test_bare_torch(benchmark: Benchmark, images: Images, model: str) -> None:
    """The same sums over the same chunks by a module, `backward` and nothing else."""
    net = build_model(model, in_shape=(1, 28, 28), n_outputs=10)
    edges = _objective(images, model).edges

    def gradient() -> Tensor:
        net.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for start, stop in edges:
            outputs = net(images.inputs[start:stop])
            loss = torch.nn.functional.cross_entropy(outputs, images.targets[start:stop], reduction="sum") / SAMPLES
            loss.backward()
            total += loss.detach()
        return total

    loss = benchmark(gradient)
    w = _objective(images, model).initial()
    expected = _objective(images, model).value(w) - 0.5 * L2 * float(w @ w)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["gradient", "hvp", "ggnvp"])
@pytest.mark.parametrize("model", ["mlp", "cnn"])
@pytest.mark.benchmark(group="products")
def test_product(benchmark: Benchmark, images: Images, model: str, kind: str) -> None:
    objective = _objective(images, model)
    w = objective.initial()
    _, v = objective.value_and_gradient(w)
    at = objective.linearise(w)
    benchmark(lambda: objective.value_and_gradient(w) if kind == "gradient" else getattr(at, kind)(v))


def _pairs(m: int, size: int) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    draw = make_generator(0, "pairs")
    scale = torch.rand(size, generator=draw) + 0.5
    steps = torch.randn(m, size, generator=draw)
    return [(s, scale * s) for s in steps], torch.randn(size, generator=draw)


def _two_loop(pairs: list[tuple[Tensor, Tensor]], rhos: list[float], gamma: float, g: Tensor) -> Tensor:
    """Nocedal & Wright 2006, algorithm 7.4, with 1 / s·y and gamma at hand: two passes over each vector."""
    q, alphas = g.clone(), []
    for (s, y), rho in zip(reversed(pairs), reversed(rhos), strict=True):
        alphas.append(rho * float(s.dot(q)))
        q.add_(y, alpha=-alphas[-1])
    q.mul_(gamma)
    for (s, y), rho, alpha in zip(pairs, rhos, reversed(alphas), strict=True):
        q.add_(s, alpha=alpha - rho * float(y.dot(q)))
    return q


@pytest.mark.parametrize("form", ["gram", "list"])
@pytest.mark.parametrize("size", [10_000, 100_000, 300_000])
@pytest.mark.parametrize("m", [10, 20, 100])
@pytest.mark.benchmark(group="direction")
def test_direction(benchmark: Benchmark, m: int, size: int, form: str) -> None:
    """One iteration's work: take a pair in and form H g; the list form only forms it."""
    pairs, g = _pairs(m, size)
    rhos = [1 / float(s.dot(y)) for s, y in pairs]
    gamma = max(float(s.dot(y) / y.dot(y)) for s, y in pairs[-GAMMA_PAIRS:])
    expected = _two_loop(pairs, rhos, gamma, g)
    if form == "list":
        benchmark(lambda: _two_loop(pairs, rhos, gamma, g))
        return
    ring = CurvaturePairs.empty(m, g)
    for k, (s, y) in enumerate(pairs):
        ring.insert(s, y, g - sum((later for _, later in pairs[k + 1 :]), torch.zeros_like(g)))
    told, ring.told = ring.told, []  # the reference begins with a multiple of the identity
    torch.testing.assert_close(ring.apply(g, float(g.double() @ g.double()))[0], expected, rtol=1e-3, atol=1e-4)
    ring.told = told
    (s, y), there = pairs[0], g + pairs[0][1]
    steps = [(s, y, there, float(there.double() @ there.double())), (-s, -y, g, float(g.double() @ g.double()))]
    back_and_forth = itertools.cycle(steps)

    def learn_and_apply() -> Tensor:
        s, y, gradient, square = next(back_and_forth)
        ring.insert(s, y, gradient)
        return ring.apply(gradient, square)[0]

    benchmark(learn_and_apply)
