"""Fit the kernel of a Gaussian process by `minimize`; points without a Cholesky factor count as infeasible."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from subsetopt import functional, minimize


class Process(nn.Module):
    """A squared exponential kernel with lengths, amplitude and noise by their logarithms."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.lengths = nn.Parameter(torch.zeros(inputs, dtype=torch.float64))
        self.amplitude = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.noise = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def kernel(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the covariances (len(a), len(b)) without noise."""
        apart = (a[:, None] - b[None]) / self.lengths.exp()
        covariances: Tensor = (2 * self.amplitude).exp() * torch.exp(-0.5 * apart.square().sum(2))
        return covariances

    def factor(self, x: Tensor) -> Tensor:
        """Return the Cholesky factor; raises LinAlgError where rounding has left none."""
        noise = (2 * self.noise).exp() * torch.eye(len(x), dtype=x.dtype)
        factor: Tensor = torch.linalg.cholesky(self.kernel(x, x) + noise)
        return factor

    def misfit(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the negative log marginal likelihood, without its constant."""
        factor = self.factor(x)
        misfit: Tensor = 0.5 * y @ torch.cholesky_solve(y[:, None], factor)[:, 0] + factor.diagonal().log().sum()
        return misfit


def main() -> None:
    """Learn that one of two inputs does not matter, and how large the noise is."""
    torch.manual_seed(0)
    x = torch.rand(80, 2, dtype=torch.float64) * 4
    y = torch.sin(2 * x[:, 0]) + 0.1 * torch.randn(80, dtype=torch.float64)
    function, start = functional(Process(2), lambda process: process.misfit(x, y))
    no_factor = (torch.linalg.LinAlgError,)  # type: ignore[attr-defined] # torch's stubs leave it out
    result = minimize(function, start, infeasible=no_factor, max_iterations=100, gtol=1e-4)
    process = function.module(result.x)
    assert isinstance(process, Process)
    lengths = process.lengths.detach().exp()
    print(f"stop reason: {result.stop_reason}, {result.counts['evaluations']} evaluations")
    print(f"lengths {lengths[0]:.3g} and {lengths[1]:.3g}, noise {process.noise.detach().exp():.3f}")


if __name__ == "__main__":
    main()
