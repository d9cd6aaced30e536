"""Finish a Lightning run with L-BFGS on all of its data: one callback (needs the extra `lightning`)."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from subsetopt.adapters.lightning import FinishWithLBFGS


class Wave(LightningModule):  # type: ignore[misc]  # its types are not read
    """Any module with `training_step` and an optimizer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))

    def training_step(self, batch: Any, index: int) -> Tensor:
        """Return the mean loss of a batch."""
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), 1e-2)


def main() -> None:
    """Fit a wave: ten epochs of Adam by Lightning, then L-BFGS until the gradient is small."""
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 400)[:, None]
    data = TensorDataset(x, torch.sin(6 * x) + 0.5 * x)
    module, finish = Wave(), FinishWithLBFGS(max_iterations=300, tolerance_grad=1e-3)
    quiet: Any = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = Trainer(max_epochs=10, accelerator="cpu", callbacks=[finish], enable_model_summary=False, **quiet)
    trainer.fit(module, DataLoader(data, batch_size=50, shuffle=True))
    assert finish.summary is not None  # training came to its end
    print(f"loss after Adam:   {finish.summary['first_loss']:.3e}")
    print(f"loss after L-BFGS: {finish.summary['loss']:.3e}, stop reason: {finish.summary['stop_reason']}")


if __name__ == "__main__":
    main()
