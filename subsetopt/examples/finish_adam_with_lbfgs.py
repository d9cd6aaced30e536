"""Finish an Adam run with L-BFGS: a torch loop, then `subsetopt.optim.LBFGS` with one full-batch closure."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from subsetopt.optim import LBFGS, full_batch_closure


def main() -> None:
    """Fit a wave: Adam on mini-batches for a start, then L-BFGS on all points until it stops."""
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 400, dtype=torch.float64)[:, None]
    y = torch.sin(6 * x) + 0.5 * x
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    loss_function = nn.MSELoss()
    data = TensorDataset(x, y)

    adam = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        for inputs, targets in DataLoader(data, batch_size=50, shuffle=True):
            adam.zero_grad()
            loss_function(model(inputs), targets).backward()
            adam.step()

    # Same samples in every call: no shuffling. The batch size changes memory, not the result.
    closure = full_batch_closure(model, loss_function, DataLoader(data, batch_size=100))
    print(f"loss after Adam:   {float(closure()):.3e}")
    lbfgs = LBFGS(model.parameters(), max_iter=100, tolerance_grad=1e-5, fixed_closure=True)
    while lbfgs.stop_reason is None:
        lbfgs.step(closure)
    print(f"loss after L-BFGS: {float(closure()):.3e}")
    print(f"max|g| {lbfgs.gradient_norm:.1e}, stop reason: {lbfgs.stop_reason}")


if __name__ == "__main__":
    main()
