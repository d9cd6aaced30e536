"""GradMatch, CRAIG and GLISTER: what they pick, and how the loop is asked for scans."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from subsetopt.errors import DataError
from subsetopt.samplers import Batch, Scan, make_sampler
from subsetopt.samplers.coreset import class_quotas
from subsetopt.samplers.methods.gradmatch import match_gradient_sum

CORESETS = ["gradmatch", "craig", "glister"]


def gradients(scan):
    h = torch.cat((scan.features, torch.ones(len(scan.features), 1)), 1)
    return torch.einsum("nm,nd->nmd", scan.residuals, h).flatten(1)


def shuffled(scan, seed=0):
    order = torch.randperm(len(scan.targets), generator=torch.Generator().manual_seed(seed))
    return Scan(scan.residuals[order], scan.features[order], scan.targets[order], order)


def scan_epochs(sampler, problem, epochs):
    """Drive the loop and return how many epochs were proposed before each scan."""
    scans, proposed = [], 0
    while proposed < epochs * sampler.steps_per_epoch:
        if sampler.scan_due:
            scans.append(proposed // sampler.steps_per_epoch)
            sampler.refresh(problem.scan, problem.scan)
            assert not sampler.scan_due
        sampler.propose()
        proposed += 1
    return scans


@pytest.mark.parametrize("name", CORESETS)
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"warmup": 0}, [0, 4, 8]),
        ({"warmup": 0.5}, [1, 5, 9]),  # of unknown length: one epoch
        ({"total_steps": 36, "warmup": 0.5}, [6, 10]),  # half of 12 epochs of 3 steps
        ({"total_steps": 36, "warmup": 0.2}, [2, 6, 10]),
        ({"total_steps": 6, "warmup": 1}, [1, 5, 9]),  # one of two epochs is left to train on what is selected
    ],
)
def test_scans_follow_the_warm_up_and_come_every_period(name, settings, expected, problem):
    """Peers' sampler fault 8: every scan is visible to the loop, so that it can be charged."""
    sampler = make_sampler(name, 90, 3, fraction=0.1, scan_period=4, **settings)
    if name == "gradmatch":  # it may choose fewer rows, whose epochs are shorter
        sampler.choose = lambda scan, validation: Batch(torch.arange(9), None)
    assert scan_epochs(sampler, problem, 12) == expected
    assert sampler.statistics()["scans"] == len(expected)


@pytest.mark.parametrize("name", CORESETS)
def test_a_warm_up_goes_through_fresh_random_subsets(name, problem):
    """Reference: 6 epochs of random tenths reach 1 - 0.9^6 = 47 % of the samples; one subset reaches 10 %."""
    sampler = make_sampler(name, 90, 3, fraction=0.1, total_steps=36, warmup=0.5)
    rows = torch.cat([sampler.propose().indices for _ in range(18)])
    assert sampler.scan_due and 30 < len(rows.unique()) < 54


@pytest.mark.parametrize("name", CORESETS)
def test_a_scan_in_loader_order_selects_the_same_samples(name, problem):
    """Peers' sampler fault 1: rows permuted, indices not."""
    ordered, permuted = (make_sampler(name, 90, 3) for _ in range(2))
    ordered.refresh(problem.scan, problem.scan)
    permuted.refresh(shuffled(problem.scan), problem.scan)
    assert set(ordered.subset.tolist()) == set(permuted.subset.tolist())


def test_craig_finds_planted_outliers_in_a_shuffled_scan():
    """Peers' sampler fault 1: 1.17 of 10 found with misaligned rows, 1.0 at random. Here: all of them."""
    generator = torch.Generator().manual_seed(0)
    e = 0.05 * torch.randn(100, 3, generator=generator)
    planted = torch.arange(7, 100, 10)
    e[planted] += 5 * torch.randn(10, 3, generator=generator)
    scan = shuffled(Scan(e, torch.zeros(100, 2), torch.zeros(100, dtype=torch.int64)))
    sampler = make_sampler("craig", 100, 10, fraction=0.12)
    sampler.refresh(scan)
    assert set(planted.tolist()) <= set(sampler.subset.tolist())
    assert sampler.subset_weights.sum() == 100


def test_craig_weights_sum_to_the_class_sizes(problem):
    sampler = make_sampler("craig", 90, 3, fraction=0.2)
    sampler.refresh(problem.scan)
    for label in range(3):
        mine = problem.targets[sampler.subset] == label
        assert sampler.subset_weights[mine].sum() == (problem.targets == label).sum()


def test_gradmatch_matches_the_sum_with_the_nnls_weights(problem):
    """Reference: scipy.optimize.nnls on written-out gradients of the selected rows."""
    scan, g = problem.scan, gradients(problem.scan).double().numpy()
    matching = match_gradient_sum(scan.residuals, scan.features, 8, ridge=0.0)
    weights, residual = nnls(g[matching.support].T, g.sum(0))
    np.testing.assert_allclose(matching.weights, weights, rtol=1e-3)
    assert residual < 0.1 * np.linalg.norm(g.sum(0))


def test_gradmatch_does_not_pad_with_rows_that_it_did_not_choose():
    """Peers' sampler fault 5: missing picks refilled with weight 1. Two distinct gradients need two rows."""
    e = torch.tensor([[0.5, -0.5], [0.5, -0.5], [0.25, -0.25], [0.25, -0.25]]).repeat(10, 1)
    h = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]).repeat(10, 1)
    sampler = make_sampler("gradmatch", 40, 4, fraction=0.5, ridge=0.0)
    sampler.refresh(Scan(e, h, torch.zeros(40, dtype=torch.int64)))
    assert len(sampler.subset) == 2 and sampler.steps_per_epoch == 1
    torch.testing.assert_close(sampler.subset_weights, torch.tensor([20.0, 20.0]))


@pytest.mark.parametrize("name", CORESETS)
def test_batches_mix_classes_and_change_order_every_epoch(name, problem):
    """Peers' sampler fault 6: class-pure batches from per-class selections."""
    sampler = make_sampler(name, 90, 15, fraction=0.5)
    sampler.refresh(problem.scan, problem.scan)
    epochs = [[sampler.propose().indices for _ in range(sampler.steps_per_epoch)] for _ in range(2)]
    full = [batch for batch in epochs[0] if len(batch) == 15]
    assert full and all(len(problem.targets[batch].unique()) > 1 for batch in full)
    assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))
    assert set(torch.cat(epochs[0]).tolist()) == set(torch.cat(epochs[1]).tolist()) == set(sampler.subset.tolist())


@pytest.mark.parametrize("name", ["gradmatch", "craig"])
def test_weights_are_those_of_the_rows_they_come_with(name, problem):
    sampler = make_sampler(name, 90, 9, fraction=0.3)
    sampler.refresh(problem.scan)
    own = dict(zip(sampler.subset.tolist(), sampler.subset_weights.tolist(), strict=True))
    indices, weights = sampler.propose()
    expected = torch.tensor([own[i] for i in indices.tolist()])
    torch.testing.assert_close(weights, expected / expected.mean())


@pytest.mark.parametrize("name", CORESETS)
def test_an_incomplete_scan_is_refused(name, problem):
    scan = problem.scan
    sampler = make_sampler(name, 90, 9)
    with pytest.raises(DataError, match="89 rows"):
        sampler.refresh(Scan(scan.residuals[:-1], scan.features[:-1], scan.targets[:-1]))
    twice = torch.arange(90)
    twice[3] = 4
    with pytest.raises(DataError, match="repeats or misses"):
        sampler.refresh(Scan(*scan[:3], twice))


def test_a_coreset_smaller_than_a_batch_is_proposed_in_spite_of_drop_last():
    sampler = make_sampler("craig", 40, 10, fraction=0.5, drop_last=True)
    sampler.refresh(Scan(torch.ones(40, 2), torch.ones(40, 2), torch.arange(40) // 20))
    indices, weights = sampler.propose()
    assert len(indices) == 2 and weights.tolist() == [1.0, 1.0]  # duplicates of one row per class


@pytest.mark.parametrize("k", [1, 9, 50, 89, 90])
def test_class_quotas_sum_to_the_budget_in_proportion(k, problem):
    quotas = {int(problem.targets[rows[0]]): (len(rows), quota) for rows, quota in class_quotas(problem.targets, k)}
    assert sum(quota for _, quota in quotas.values()) == k
    assert all(abs(quota - size * k / 90) < 1 for size, quota in quotas.values())
