"""Fit a potential to energies and forces, which are derivatives of the network inside the loss, by L-BFGS."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from subsetopt import Objective, minimize, model_loss

ATOMS = 4


class Potential(nn.Module):
    """Energy (n,) of positions (n, ATOMS, 3): a sum over pairs of a network of their distance."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, positions: Tensor) -> Tensor:
        """Return the energies."""
        return torch.einsum("npo->n", self.pair(distances(positions)[..., None]))


def distances(positions: Tensor) -> Tensor:
    """Return those of all pairs, (n, pairs)."""
    i, j = torch.triu_indices(ATOMS, ATOMS, 1)
    return (positions[:, i] - positions[:, j]).square().sum(2).sqrt()


def with_forces(model: nn.Module, positions: Tensor, graph: bool = False) -> tuple[Tensor, Tensor]:
    """Return E and F = -dE/dx of a potential."""
    energies = model(positions.requires_grad_())
    return energies, -torch.autograd.grad(energies.sum(), positions, create_graph=graph)[0]


def misfit(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss of each configuration, (n,)."""
    energies, forces = with_forces(model, batch["positions"], graph=True)
    return (energies - batch["energies"]).square() + (forces - batch["forces"]).square().mean((1, 2))


def main() -> None:
    """Learn a Morse potential from 100 configurations and look at 100 others."""
    torch.manual_seed(0)
    corners = 1.2 * torch.eye(ATOMS, 3, dtype=torch.float64)
    positions = corners + 0.15 * torch.randn(200, ATOMS, 3, dtype=torch.float64)
    truth = lambda x: ((1 - torch.exp(1.3 - distances(x))).square() - 1).sum(1)  # noqa: E731 # a formula
    energies, forces = (part.detach() for part in with_forces(truth, positions))  # type: ignore[arg-type]
    data = {"positions": positions.detach(), "energies": energies, "forces": forces}
    train, test = ({key: value[part] for key, value in data.items()} for part in (slice(100), slice(100, None)))
    objective = Objective(Potential().double(), train, loss=model_loss(misfit))
    result = minimize(objective, max_iterations=200)
    found = with_forces(objective.flat.module(result.x), test["positions"])[1]
    error = (found - test["forces"]).norm() / test["forces"].norm()
    print(f"{result.counts['evaluations']} evaluations: loss {result.loss:.2e}, error of forces {error:.4f}")


if __name__ == "__main__":
    main()
