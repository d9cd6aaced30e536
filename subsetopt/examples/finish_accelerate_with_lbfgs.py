"""Finish an Accelerate loop with L-BFGS on all of its data, on any number of processes (extra `accelerate`)."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from subsetopt.adapters.accelerate import accelerated_closure
from subsetopt.optim import LBFGS


def main() -> None:
    """Fit a wave: ten epochs of Adam in a loop of your own, then L-BFGS. `accelerate launch` runs it on several."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    x = torch.linspace(-1, 1, 400)[:, None]
    model: nn.Module = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    loader = DataLoader(TensorDataset(x, torch.sin(6 * x) + 0.5 * x), batch_size=50, shuffle=True)
    model, loader, adam = accelerator.prepare(model, loader, torch.optim.Adam(model.parameters(), 1e-2))
    for _ in range(10):
        for inputs, targets in loader:
            adam.zero_grad()
            accelerator.backward(nn.functional.mse_loss(model(inputs), targets))
            adam.step()

    closure = accelerated_closure(accelerator, model, nn.functional.mse_loss, loader)
    accelerator.print(f"loss after Adam:   {float(closure()):.3e}")
    lbfgs = LBFGS(accelerator.unwrap_model(model).parameters(), max_iter=300, tolerance_grad=1e-3, fixed_closure=True)
    lbfgs.step(closure)
    accelerator.print(f"loss after L-BFGS: {float(closure()):.3e}, stop reason: {lbfgs.stop_reason}")


if __name__ == "__main__":
    main()
