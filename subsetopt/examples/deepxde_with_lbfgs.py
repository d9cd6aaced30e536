"""Poisson's equation by DeepXDE, whose `compile("L-BFGS")` takes our L-BFGS (needs the extra `deepxde`)."""

from __future__ import annotations

import os

import torch
from torch import Tensor

os.environ.setdefault("DDE_BACKEND", "pytorch")  # read when DeepXDE is imported

import deepxde as dde

from subsetopt.adapters.deepxde import lbfgs_in_deepxde


def residual(x: Tensor, u: Tensor) -> Tensor:
    """Return u'' + pi^2 sin(pi x), which is zero for u = sin(pi x)."""
    curvature: Tensor = dde.grad.hessian(u, x)
    return curvature + torch.pi**2 * torch.sin(torch.pi * x)


def main() -> None:
    """Train a network with u = 0 at both ends: DeepXDE's own script, but for one line."""
    dde.config.set_random_seed(0)
    interval = dde.geometry.Interval(-1, 1)
    ends = dde.icbc.DirichletBC(interval, lambda x: 0, lambda _, on_boundary: on_boundary)
    data = dde.data.PDE(interval, residual, ends, num_domain=24, num_boundary=2)
    model = dde.Model(data, dde.nn.FNN([1, 16, 1], "tanh", "Glorot uniform"))
    dde.optimizers.set_LBFGS_options(maxiter=600, gtol=1e-4)
    with lbfgs_in_deepxde(history_size=50):
        model.compile("L-BFGS")
    model.train(display_every=10_000, verbose=0)
    x = torch.linspace(-1, 1, 101)[:, None]
    error = torch.as_tensor(model.predict(x.numpy())) - torch.sin(torch.pi * x)
    print(f"largest error of the solution: {float(error.abs().max()):.1e}")


if __name__ == "__main__":
    main()
