"""Train on a table of your own: arrays in, the minimum of a 20 % subset, L-BFGS on all rows, predictions out."""

from __future__ import annotations

import torch
from torch import nn

from subsetopt import SubsetTrainer
from subsetopt.data import dataset_from_arrays


def main() -> None:
    """Fit a regression on raw columns of different scales and predict in the units of the targets."""
    torch.manual_seed(0)
    columns = torch.rand(1200, 4) * torch.tensor([1.0, 10.0, 100.0, 1000.0])  # standardised by default
    prices = 250 + columns[:, 0] * columns[:, 2] + columns[:, 1] + 0.05 * columns[:, 3] + torch.randn(1200)
    train, new = slice(0, 1000), slice(1000, 1200)

    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    dataset = dataset_from_arrays(columns[train], prices[train])
    trainer = SubsetTrainer(model, dataset, subset_frac=0.2, solver="lbfgs", handoff="full", l2=1e-3).fit()

    ratio = trainer.result["overdetermination"]["ratio"]
    print(f"overdetermination ratio of the subset: {ratio:.2f}")
    print(f"stop reason of the subset solve: {trainer.result['solve']['stop_reason']}")
    error = (trainer.predict(columns[new]).squeeze() - prices[new]).square().mean().sqrt()
    print(f"error on new rows: {error:.2f}, standard deviation of their prices: {prices[new].std():.2f}")


if __name__ == "__main__":
    main()
