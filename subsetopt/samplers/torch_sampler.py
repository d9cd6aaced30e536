"""A sampler in somebody else's loop: the face that `torch.utils.data.DataLoader` expects."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

from subsetopt.samplers.protocol import Batch, Sampler


class TorchBatchSampler(torch.utils.data.Sampler[list[int]]):
    """Batches of indices for `DataLoader(..., batch_sampler=...)`; one iteration is one epoch of the sampler.

    A loader with workers asks for batches ahead of time, so `next_batch` hands the proposals out in the order in which
    they were made: one call per batch received keeps indices and weights beside their rows.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self._proposed: deque[Batch] = deque()

    def __len__(self) -> int:
        return self.sampler.steps_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        self._proposed.clear()
        for _ in range(len(self)):
            batch = self.sampler.propose()
            self._proposed.append(batch)
            yield batch.indices.tolist()

    def next_batch(self) -> Batch:
        """Return the indices and weights of the batch that the loader has just delivered."""
        return self._proposed.popleft()

    def weighted_mean(self, losses: Tensor) -> tuple[Tensor, Tensor]:
        """Return (weighted mean of `losses`, indices) of the batch just delivered."""
        indices, weights = self.next_batch()
        if weights is None:
            return losses.mean(), indices
        return (weights.to(losses) * losses).mean(), indices


def as_torch_sampler(sampler: Sampler) -> TorchBatchSampler:
    """Return `sampler` as a batch sampler for a plain PyTorch loop.

    Samplers that select after a forward pass propose *candidates*; call their `select` in the loop, as for any other.

    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from subsetopt.samplers import as_torch_sampler, make_sampler
    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> y = (x[:, 0] > 0).long()
    >>> model = torch.nn.Linear(1, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> batches = as_torch_sampler(make_sampler("p-sgd", len(x), 8, seed=0, fraction=0.5, correction="importance"))
    >>> loader = DataLoader(TensorDataset(x, y), batch_sampler=batches)
    >>> for _ in range(5):
    ...     for inputs, targets in loader:
    ...         probabilities = model(inputs).softmax(1)
    ...         losses = torch.nn.functional.nll_loss(probabilities.log(), targets, reduction="none")
    ...         loss, indices = batches.weighted_mean(losses)
    ...         optimizer.zero_grad()
    ...         loss.backward()
    ...         optimizer.step()
    ...         batches.sampler.observe(indices, losses, probabilities, targets=targets)
    >>> bool((model(x).argmax(1) == y).float().mean() > 0.9)
    True
    """
    return TorchBatchSampler(sampler)
