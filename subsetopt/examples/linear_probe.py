"""Fit a linear probe for eight strengths of L2, each started from the ones before: the path for the price of two."""

from __future__ import annotations

import torch
from torch import nn

from subsetopt import Objective, load_dataset, minimize

STRENGTHS = [10.0**-k for k in (1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5)]


def main() -> None:
    """Choose the L2 strength of softmax regression on frozen features by held-out accuracy."""
    torch.manual_seed(0)
    digits = load_dataset("digits")
    assert digits.test is not None  # digits has test data
    features = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU()).double()  # a frozen backbone

    def probed(inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = features(inputs.double() / 16)
        return found.detach()

    x, y = probed(digits.train.inputs), digits.train.targets
    held_x, held_y = probed(digits.test.inputs), digits.test.targets
    probe = nn.Linear(100, 10).double()

    def solve(l2: float, start: torch.Tensor) -> tuple[torch.Tensor, int]:
        objective = Objective(probe, x, y, loss="cross_entropy", l2=l2)
        result = minimize(objective, start, method="newton-cg", gtol=1e-4)
        assert result.converged, result.stop_reason
        return result.x, result.counts["evaluations"] + result.counts["products"]

    zeros = torch.zeros(sum(p.numel() for p in probe.parameters()), dtype=torch.float64)
    before, w, path = zeros, zeros, 0
    for l2 in STRENGTHS:
        guess = 2 * w - before  # the path is smooth in log(l2): go on along its last step
        before, (w, cost) = w, solve(l2, guess)
        path += cost
        torch.nn.utils.vector_to_parameters(w, probe.parameters())
        accuracy = (probe(held_x).argmax(1) == held_y).double().mean()
        print(f"l2 = {l2:.1e}: accuracy {accuracy:.3f}, {cost} evaluations and products")
    alone = solve(STRENGTHS[-1], zeros)[1]
    print(f"path of 8: {path}; the last alone, from zero: {alone}; ratio {path / alone:.2f}")


if __name__ == "__main__":
    main()
