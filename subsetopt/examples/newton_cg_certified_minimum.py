"""Minimise with Newton-CG and certify the result: minimum or saddle, by bounds on the Hessian's smallest eigenvalue."""

from __future__ import annotations

import torch
from torch import nn

from subsetopt import Objective, minimize
from subsetopt.analysis.verification import certify


def main() -> None:
    """Fit a small classifier with an L2 term; print the eigenvalue bounds and the distance to the minimum."""
    torch.manual_seed(0)
    x = torch.randn(300, 5, dtype=torch.float64)
    y = (x[:, 0] * x[:, 1] > 0).long()
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    objective = Objective(model, x, y, loss="cross_entropy", l2=1e-2)

    result = minimize(objective, objective.initial(), method="newton-cg", gtol=1e-9)
    print(f"{result.stop_reason}: loss {result.loss:.6f}, max|g| {result.gradient_norm:.1e}, {dict(result.counts)}")

    certificate = certify(objective, result.x)
    smallest = certificate.spectrum.smallest
    print(f"smallest eigenvalue between {smallest.lower:.3e} and {smallest.upper:.3e}: {certificate.verdict}")
    if certificate.distance is not None:
        print(f"distance to the minimum, to second order: at most {certificate.distance:.1e}")


if __name__ == "__main__":
    main()
