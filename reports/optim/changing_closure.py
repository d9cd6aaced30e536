"""L-BFGS as a torch optimizer on closures that change from step to step: does old curvature help or hurt?

    python reports/optim/changing_closure.py

Mini-batches of three data sets and collocation points that are redrawn for every step; the loss on all data after a
fixed number of samples evaluated, the median over seeds. MNIST is read from $SUBSETOPT_DATA.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

from subsetopt.data import load_dataset
from subsetopt.optim import LBFGS

SEEDS, EPOCHS = 3, 10
OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "torch": torch.optim.LBFGS,
    "torch, strong_wolfe": partial(torch.optim.LBFGS, line_search_fn="strong_wolfe"),
    "keep_curvature=True": partial(LBFGS, keep_curvature=True),
    "keep_curvature=False": partial(LBFGS, keep_curvature=False),
}


class Supervised:
    """Rows (x, y) in shuffled batches."""

    def __init__(self, x: Tensor, y: Tensor, hidden: int, weight_decay: float) -> None:
        self.x, self.y, self.hidden, self.decay = x, y, hidden, weight_decay
        self.outputs = int(y.max()) + 1 if y.dtype == torch.int64 else 1

    def model(self) -> nn.Module:
        width = self.x[0].numel()
        if not self.hidden:
            return nn.Linear(width, self.outputs)
        return nn.Sequential(nn.Linear(width, self.hidden), nn.Tanh(), nn.Linear(self.hidden, self.outputs))

    def loss(self, model: nn.Module, rows: Tensor) -> Tensor:
        out, y = model(self.x[rows]), self.y[rows]
        fit = nn.functional.cross_entropy(out, y) if y.dtype == torch.int64 else ((out.squeeze(1) - y) ** 2).mean()
        return fit + self.decay * sum((p**2).sum() for p in model.parameters())

    def batches(self, size: int, draw: torch.Generator) -> Iterator[Tensor]:
        while True:
            order = torch.randperm(len(self.x), generator=draw)
            yield from torch.split(order[: len(order) // size * size], size)

    @property
    def samples(self) -> int:
        return len(self.x)

    def all(self) -> Tensor:
        return torch.arange(len(self.x))


class Poisson:
    """-u'' = pi² sin(pi x) on [0, 1], u = 0 at both ends; batches are points drawn anew."""

    samples = 2048

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1)).double()

    def loss(self, model: nn.Module, points: Tensor) -> Tensor:
        x = points.requires_grad_()
        u = model(x)
        (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (ddu,) = torch.autograd.grad(du.sum(), x, create_graph=True)
        residual = ddu + math.pi**2 * torch.sin(math.pi * x)
        loss: Tensor = (residual**2).mean() + 100 * (model(x.new_tensor([[0.0], [1.0]])) ** 2).mean()
        return loss

    def batches(self, size: int, draw: torch.Generator) -> Iterator[Tensor]:
        while True:
            yield torch.rand(size, 1, generator=draw, dtype=torch.float64)

    def all(self) -> Tensor:
        return torch.linspace(0, 1, self.samples, dtype=torch.float64).unsqueeze(1)


def final_loss(problem: Any, make: Callable[..., Any], size: int, max_iter: int, seed: int) -> float:
    """Train until EPOCHS times the samples are evaluated; return the loss on all of them, infinity for NaN."""
    torch.manual_seed(seed)
    model = problem.model()
    optimizer = make(model.parameters(), max_iter=max_iter)
    batches, calls = problem.batches(size, torch.Generator().manual_seed(seed)), 0
    while calls * size < EPOCHS * problem.samples:
        rows = next(batches)

        def closure(rows: Tensor = rows) -> Tensor:
            nonlocal calls
            calls += 1
            optimizer.zero_grad()
            loss: Tensor = problem.loss(model, rows)
            loss.backward()
            return loss

        optimizer.step(closure)
    loss = float(problem.loss(model, problem.all()).detach())
    return loss if math.isfinite(loss) else math.inf


def problems() -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Return the problems with their batch sizes."""
    mnist = load_dataset("mnist").train
    x, y = mnist.inputs[:4000].reshape(4000, -1).float() / 255, mnist.targets[:4000].long()
    table, target = load_diabetes(return_X_y=True)
    table, target = torch.from_numpy(table).float() * 20, torch.from_numpy(target).float()
    target = (target - target.mean()) / target.std()
    return {
        "MNIST, softmax regression": (Supervised(x, y, 0, 1e-3), (50, 250, 1000)),
        "MNIST, 32 tanh": (Supervised(x, y, 32, 1e-4), (50, 250, 1000)),
        "diabetes, 16 tanh": (Supervised(table, target, 16, 1e-4), (32, 128)),
        "Poisson, redrawn points": (Poisson(), (64, 256)),
    }


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    print(f"| problem | batch | max_iter | {' | '.join(OPTIMIZERS)} |")
    print("|---|---|---|" + "---|" * len(OPTIMIZERS))
    for name, (problem, sizes) in problems().items():
        for size in sizes:
            for max_iter in (1, 4, 20):
                row = []
                for make in OPTIMIZERS.values():
                    losses = [final_loss(problem, make, size, max_iter, seed) for seed in range(SEEDS)]
                    row.append(statistics.median(losses))
                cells = [f"**{loss:.3g}**" if loss == min(row) else f"{loss:.3g}" for loss in row]
                print(f"| {name} | {size} | {max_iter} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
