"""The problem set: standard test functions with their standard starts and known minima (Moré, Garbow & Hillstrom 1981),
a logistic regression, two small tanh networks and a convolutional network on images.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from subsetopt.bench.images import Images
from subsetopt.models import build_model
from subsetopt.seeding import make_generator

CNN = "cnn"
CNN_CALLS = 4000  # a third above what the slowest of ours, nonlinear CG, takes there; for all contestants alike
CHUNK = 50  # images at a time: larger ones leave the cache


@dataclass(frozen=True)
class Problem:
    """A function of a flat tensor, its start, and its minimum where a figure is known (None otherwise).

    A solve may take `max_calls` evaluations and products together.
    """

    name: str
    fun: Callable[[Tensor], Tensor]
    x0: Tensor
    minimum: float | None = None
    max_calls: int = 6000


def rosenbrock(x: Tensor) -> Tensor:
    """Chained: sum 100 (x_{i+1} - x_i²)² + (1 - x_i)²; minimum 0 at ones."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def beale(x: Tensor) -> Tensor:
    """Minimum 0 at (3, 0.5)."""
    a, b = x[0], x[1]
    return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2


def powell_singular(x: Tensor) -> Tensor:
    """Minimum 0 at 0, where the Hessian is singular."""
    a, b, c, d = x.reshape(-1, 4).unbind(1)
    return ((a + 10 * b) ** 2 + 5 * (c - d) ** 2 + (b - 2 * c) ** 4 + 10 * (a - d) ** 4).sum()


def powell_badly_scaled(x: Tensor) -> Tensor:
    """Minimum 0 at (1.098e-5, 9.106)."""
    return (1e4 * x[0] * x[1] - 1) ** 2 + (torch.exp(-x[0]) + torch.exp(-x[1]) - 1.0001) ** 2


def wood(x: Tensor) -> Tensor:
    """Minimum 0 at ones."""
    a, b, c, d = x.unbind()
    valley = 100 * (b - a**2) ** 2 + (1 - a) ** 2 + 90 * (d - c**2) ** 2 + (1 - c) ** 2
    return valley + 10 * (b + d - 2) ** 2 + 0.1 * (b - d) ** 2


def trigonometric(x: Tensor) -> Tensor:
    """Minimum 0 (there are local minima with larger values)."""
    n = len(x)
    i = torch.arange(1, n + 1, dtype=x.dtype)
    return ((n - torch.cos(x).sum() + i * (1 - torch.cos(x)) - torch.sin(x)) ** 2).sum()


def brown_almost_linear(x: Tensor) -> Tensor:
    """Minimum 0 at (a, ..., a, a^{1-n}) (and a local minimum 1)."""
    n = len(x)
    linear = x[:-1] + x.sum() - (n + 1)
    return (linear**2).sum() + (x.prod() - 1) ** 2


def log_barrier(x: Tensor) -> Tensor:
    """A linear function behind a barrier, not a number outside x > 0; minimum n + ln(prod i) at x_i = 1/i."""
    i = torch.arange(1, len(x) + 1, dtype=x.dtype)
    return (i * x - torch.log(x)).sum()


def _normal(name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=make_generator(0, name))


def _logistic() -> Problem:
    """Regularised logistic regression, 200 samples of 50 badly scaled features."""
    features = _normal("features", 200, 50) * torch.logspace(0, 2, 50, dtype=torch.float64)
    signs = torch.sign(features @ (_normal("truth", 50) / torch.logspace(0, 2, 50, dtype=torch.float64)))
    signs = signs * torch.where(_normal("flips", 200) > 1.3, -1.0, 1.0)

    def fun(x: Tensor) -> Tensor:
        margins = signs.to(x.dtype) * (features.to(x.dtype) @ x)
        return torch.nn.functional.softplus(-margins).mean() + 5e-4 * (x * x).sum()

    return Problem("logistic-50", fun, torch.zeros(50, dtype=torch.float64))


def _network(name: str, widths: tuple[int, ...], samples: int, l2: float, max_calls: int = 6000) -> Problem:
    """A tanh network with squared loss on noisy targets."""
    inputs = _normal(name + "/inputs", samples, widths[0])
    targets = torch.sin(2 * inputs.sum(1, keepdim=True)) + 0.1 * _normal(name + "/noise", samples, widths[-1])
    shapes = [(n_in + 1, n_out) for n_in, n_out in itertools.pairwise(widths)]
    sizes = [a * b for a, b in shapes]
    starts = [_normal(f"{name}/{k}", a * b) / math.sqrt(a) for k, (a, b) in enumerate(shapes)]

    def fun(x: Tensor) -> Tensor:
        activations = inputs.to(x.dtype)
        for k, (part, shape) in enumerate(zip(torch.split_with_sizes(x, sizes), shapes, strict=True)):
            weight = part.reshape(shape)
            activations = activations @ weight[:-1] + weight[-1]
            if k < len(shapes) - 1:
                activations = torch.tanh(activations)
        return ((activations - targets.to(x.dtype)) ** 2).mean() + l2 * (x * x).sum()

    return Problem(name, fun, torch.cat(starts), max_calls=max_calls)


def cnn_problem(images: Images, samples: int = 500, l2: float = 1e-3) -> Problem:
    """The `cnn` of the model zoo with cross-entropy and (l2/2)||w||², in float64, as a function of its parameters."""
    inputs, targets = images.inputs[:samples].double(), images.targets[:samples]
    model = build_model("cnn", in_shape=tuple(inputs.shape[1:]), n_outputs=10, dtype=torch.float64)
    names = [name for name, _ in model.named_parameters()]
    shapes = [parameter.shape for parameter in model.parameters()]
    sizes = [shape.numel() for shape in shapes]

    def fun(x: Tensor) -> Tensor:
        parts = zip(names, torch.split_with_sizes(x, sizes), shapes, strict=True)
        parameters = {name: part.view(shape) for name, part, shape in parts}
        total = x.new_zeros(())
        for rows, labels in zip(torch.split(inputs, CHUNK), torch.split(targets, CHUNK), strict=True):
            outputs = torch.func.functional_call(model, parameters, (rows,))
            total = total + torch.nn.functional.cross_entropy(outputs, labels, reduction="sum")
        return total / len(targets) + 0.5 * l2 * (x * x).sum()

    start = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    return Problem(f"cnn-{images.name}-{samples}", fun, start, max_calls=CNN_CALLS)


def _filled(*values: float, repeat: int = 1) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).repeat(repeat)


_LOG_FACTORIAL_20 = math.lgamma(21)

PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("rosenbrock-2", rosenbrock, _filled(-1.2, 1.0), 0.0),
        Problem("rosenbrock-10", rosenbrock, _filled(-1.2, 1.0, repeat=5)),
        Problem("rosenbrock-100", rosenbrock, _filled(-1.2, 1.0, repeat=50)),
        Problem("rosenbrock-1000", rosenbrock, _filled(-1.2, 1.0, repeat=500), max_calls=16_000),
        Problem("beale", beale, _filled(1.0, 1.0), 0.0),
        Problem("powell-singular-40", powell_singular, _filled(3.0, -1.0, 0.0, 1.0, repeat=10), 0.0),
        Problem("powell-badly-scaled", powell_badly_scaled, _filled(0.0, 1.0), 0.0),
        Problem("wood", wood, _filled(-3.0, -1.0, -3.0, -1.0), 0.0),
        Problem("trigonometric-10", trigonometric, torch.full((10,), 0.1, dtype=torch.float64)),
        Problem("brown-almost-linear-10", brown_almost_linear, torch.full((10,), 0.5, dtype=torch.float64)),
        Problem("log-barrier-20", log_barrier, torch.full((20,), 1e-3, dtype=torch.float64), 20 + _LOG_FACTORIAL_20),
        _logistic(),
        _network("mlp-171", (15, 10, 1), 60, 1e-4, max_calls=12_000),
        _network("mlp-121", (4, 8, 8, 1), 80, 1e-3),
    )
}
"""All but the CNN, which needs images: see `cnn_problem`."""
