"""Use a sampler in a torch loop of your own: importance sampling by per-sample losses, with unbiased weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from subsetopt import load_dataset
from subsetopt.samplers import as_torch_sampler, make_sampler


def main() -> None:
    """Train on digits with half of the samples per epoch, chosen by the sampler `p-sgd`."""
    torch.manual_seed(0)
    dataset = load_dataset("digits")
    x, y = dataset.train.inputs.float().flatten(1) / 16, dataset.train.targets
    assert dataset.test is not None  # digits has test data
    test_x, test_y = dataset.test.inputs.float().flatten(1) / 16, dataset.test.targets

    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    sampler = make_sampler("p-sgd", len(x), 32, seed=0, fraction=0.5, correction="importance")
    batches = as_torch_sampler(sampler)

    for epoch in range(8):
        seen = 0
        for inputs, targets in DataLoader(TensorDataset(x, y), batch_sampler=batches):
            probabilities = model(inputs).softmax(1)
            losses = nn.functional.nll_loss(probabilities.log(), targets, reduction="none")
            loss, indices = batches.weighted_mean(losses)  # an unbiased estimate of the mean over all samples
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sampler.observe(indices, losses, probabilities, targets=targets)
            seen += len(indices)
        print(f"epoch {epoch + 1}: {seen} of {len(x)} samples")
    accuracy = (model(test_x).argmax(1) == test_y).double().mean()
    print(f"test accuracy: {accuracy:.3f}")


if __name__ == "__main__":
    main()
