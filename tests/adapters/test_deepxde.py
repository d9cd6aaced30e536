"""`subsetopt.adapters.deepxde`: an unmodified DeepXDE script past convergence, where DeepXDE is installed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from subsetopt.errors import UserError
from subsetopt.optim import LBFGS


def test_compile_takes_our_lbfgs_and_stops_at_the_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDE_BACKEND", "pytorch")
    dde = pytest.importorskip("deepxde", reason="DeepXDE is not installed")
    from subsetopt.adapters.deepxde import lbfgs_in_deepxde

    def residual(x: Tensor, u: Tensor) -> Tensor:
        return dde.grad.hessian(u, x) + torch.pi**2 * torch.sin(torch.pi * x)

    interval = dde.geometry.Interval(-1, 1)
    boundary = dde.icbc.DirichletBC(interval, lambda x: 0, lambda _, on: on)
    dde.config.set_random_seed(0)
    model = dde.Model(
        dde.data.PDE(interval, residual, boundary, 16, 2), dde.nn.FNN([1, 10, 1], "tanh", "Glorot uniform")
    )
    dde.optimizers.set_LBFGS_options(maxiter=600, gtol=1e-3)
    with lbfgs_in_deepxde(history_size=50):
        model.compile("L-BFGS")
    assert isinstance(model.opt, LBFGS) and model.opt.param_groups[0]["history_size"] == 50
    _, state = model.train(display_every=10_000)
    assert state.best_loss_train < 1e-3 and state.step < 600
    model.compile("L-BFGS")
    assert type(model.opt) is torch.optim.LBFGS, "DeepXDE is as it was"
    with pytest.raises(UserError, match="max_iter = 0"), lbfgs_in_deepxde(max_iter=0):
        pass
