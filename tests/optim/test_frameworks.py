"""Lightning (automatic optimisation), skorch and DeepXDE past the minimum; run where they are installed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from subsetopt.optim import LBFGS
from subsetopt.seeding import make_generator


def line(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """A problem whose minimum, loss 0, is reached within a step or two."""
    x = torch.randn(32, 3, generator=make_generator(0, "data"), dtype=dtype)
    return x, x.sum(1, keepdim=True) + 1


def test_lightning_trains_past_the_minimum(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed")

    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]  # the base is known when it runs
        def __init__(self) -> None:
            super().__init__()
            self.net, self.losses = nn.Linear(3, 1), []

        def training_step(self, batch: Any, index: int) -> Tensor:
            x, y = batch
            loss: Tensor = nn.functional.mse_loss(self.net(x), y)
            self.losses.append(float(loss.detach()))
            return loss

        def configure_optimizers(self) -> LBFGS:
            return LBFGS(self.parameters())

    module = Module()
    loader = DataLoader(TensorDataset(*line()), batch_size=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=6, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
        )
        trainer.fit(module, loader)
        assert module.losses[-1] < 1e-10 < module.losses[0]
        (checkpoint,) = tmp_path.rglob("*.ckpt")
        again = Module()
        lightning.Trainer(
            max_epochs=8, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
        ).fit(again, loader, ckpt_path=checkpoint)
    assert again.losses and max(again.losses) < 1e-10


def test_skorch_trains_past_the_minimum() -> None:
    skorch = pytest.importorskip("skorch", reason="skorch is not installed")
    torch.manual_seed(0)
    net = skorch.NeuralNetRegressor(
        nn.Linear,
        module__in_features=3,
        module__out_features=1,
        optimizer=LBFGS,
        lr=1.0,
        max_epochs=5,
        batch_size=-1,
        train_split=None,
        verbose=0,
    )
    net.fit(*line())
    assert net.history[-1, "train_loss"] < 1e-10 < net.history[0, "train_loss"]


def test_deepxde_ends_at_the_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDE_BACKEND", "pytorch")
    dde = pytest.importorskip("deepxde", reason="DeepXDE is not installed")
    monkeypatch.setattr(torch.optim, "LBFGS", LBFGS)

    def residual(x: Tensor, u: Tensor) -> Tensor:
        return dde.grad.hessian(u, x) + torch.pi**2 * torch.sin(torch.pi * x)

    interval = dde.geometry.Interval(-1, 1)
    boundary = dde.icbc.DirichletBC(interval, lambda x: 0, lambda _, on: on)
    data = dde.data.PDE(interval, residual, boundary, 16, 2)
    model = dde.Model(data, dde.nn.FNN([1, 10, 1], "tanh", "Glorot uniform"))
    dde.optimizers.set_LBFGS_options(maxiter=100)
    model.compile("L-BFGS")
    _, state = model.train(display_every=100)
    assert float(state.best_loss_train) < 1e-3
