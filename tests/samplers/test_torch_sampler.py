"""Samplers in a plain PyTorch loop."""

import doctest

import torch
from torch.utils.data import DataLoader, TensorDataset

from subsetopt.samplers import as_torch_sampler, make_sampler, torch_sampler


def test_the_example_in_the_docstring_runs():
    results = doctest.testmod(torch_sampler)
    assert results.attempted > 5 and results.failed == 0


def test_a_data_loader_delivers_the_proposed_rows_epoch_after_epoch():
    """Reference: the same sampler asked directly."""
    batches = as_torch_sampler(make_sampler("rs2", 50, 4, seed=3, fraction=0.3))
    direct = make_sampler("rs2", 50, 4, seed=3, fraction=0.3)
    loader = DataLoader(TensorDataset(torch.arange(50)), batch_sampler=batches)
    for _ in range(2):
        assert len(loader) == 4
        for (rows,) in loader:
            assert torch.equal(rows, direct.propose().indices)


def test_weights_stay_beside_their_rows_when_batches_are_fetched_ahead():
    batches = as_torch_sampler(make_sampler("p-sgd", 50, 4, fraction=0.5, correction="importance"))
    batches.sampler.observe(torch.arange(50), torch.linspace(0.1, 3, 50))
    ahead = list(batches)
    for rows in ahead:
        indices, weights = batches.next_batch()
        assert indices.tolist() == rows and weights.shape == indices.shape


def test_the_weighted_mean_is_that_of_the_protocol():
    batches = as_torch_sampler(make_sampler("p-sgd", 50, 4, fraction=0.5, correction="importance"))
    batches.sampler.observe(torch.arange(50), torch.linspace(0.1, 3, 50))
    next(iter(batches))
    _, weights = batches._proposed[0]
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0])
    mean, _ = batches.weighted_mean(losses)
    torch.testing.assert_close(mean, (losses * weights).mean())


def test_an_epoch_that_was_broken_off_leaves_no_old_proposals():
    batches = as_torch_sampler(make_sampler("rs2", 50, 4, fraction=0.3))
    next(iter(batches))
    second = iter(batches)
    assert next(second) == batches.next_batch().indices.tolist()
