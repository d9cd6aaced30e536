"""p-sgd and c-sgd: attribution, unseen samples, probabilities and realised inclusion."""

import pytest
import torch

from subsetopt.samplers import make_sampler


def probabilities_of(p):
    """Rows [p, 1 - p], so that class 0 has probability p."""
    p = torch.as_tensor(p, dtype=torch.float32)
    return torch.stack((p, 1 - p), 1)


def observe(sampler, indices, p, targets=None, weights=None):
    indices = torch.as_tensor(indices)
    y = torch.zeros_like(indices) if targets is None else torch.as_tensor(targets)
    w = None if weights is None else torch.as_tensor(weights)
    sampler.observe(indices, torch.zeros(len(indices)), probabilities_of(p), None, y, w)


def test_scores_are_means_over_all_visits():
    """Reference: by hand, s_0 = mean(0.8, 0.4), s_1 = 0.5, s_2 = 0.1; P = (s + mean) / (2 N mean)."""
    sampler = make_sampler("p-sgd", 3, 2)
    observe(sampler, [0, 1, 2], [0.2, 0.5, 0.9])
    observe(sampler, [0], [0.6])
    s = torch.tensor([0.6, 0.5, 0.1], dtype=torch.float64)
    torch.testing.assert_close(sampler.probabilities, (s + s.mean()) / (6 * s.mean()), atol=1e-6, rtol=0)
    assert sampler.probabilities.sum() == pytest.approx(1.0, abs=1e-9)


def test_c_sgd_prefers_undecided_samples():
    sampler = make_sampler("c-sgd", 3, 2)
    observe(sampler, [0, 1, 2], [0.02, 0.5, 0.98])
    assert sampler.probabilities.argmax() == 1
    c = torch.tensor([0.02 * 0.98, 0.25, 0.02 * 0.98], dtype=torch.float64)
    torch.testing.assert_close(sampler.probabilities, (c + c.mean()) / (6 * c.mean()), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["p-sgd", "c-sgd"])
def test_unseen_samples_take_the_maximum_of_the_quantity_used(name):
    """Peers' sampler fault 4: an unseen s = 1 gives c-sgd c = 0, almost no probability."""
    sampler = make_sampler(name, 5, 2)
    torch.testing.assert_close(sampler.probabilities, torch.full((5,), 0.2, dtype=torch.float64))
    observe(sampler, [0, 1, 2], [0.4, 0.7, 0.95])
    p = sampler.probabilities
    assert p[3] == p[4] == p.max() == p[0]


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_mixup_credits_both_donors_in_proportion(share):
    """Peers' sampler fault 4: y_a alone, even where lambda < 1/2. Reference: share-weighted means by hand."""
    sampler = make_sampler("p-sgd", 4, 2)
    observe(sampler, [[0, 1], [1, 2]], [0.9, 0.2], targets=[[0, 1], [0, 0]], weights=[[share, 1 - share]] * 2)
    s = sampler.total / sampler.visits
    # Sample 0: class 0 of row 0. Sample 1: class 1 of row 0 with 1 - share, class 0 of row 1 with share.
    torch.testing.assert_close(s[:3], torch.tensor([0.1, (1 - share) * 0.9 + share * 0.8, 0.8]))
    torch.testing.assert_close(sampler.visits, torch.tensor([share, 1.0, 1 - share, 0.0]))


def test_ricap_credits_its_four_donors_and_nobody_else():
    """Peers' sampler fault 4: attribution at chance, 1/128.

    Whatever they are mixed with, hard samples (p[y] = 0) end with s = 1, easy ones (p[y] = 1) with s = 0.
    """
    n, generator = 128, torch.Generator().manual_seed(0)
    hard = torch.arange(n) % 4 == 0
    sampler = make_sampler("p-sgd", n, 32)
    for _ in range(20):
        donors = torch.randperm(n, generator=generator).view(32, 4)
        shares = torch.rand(32, 4, generator=generator)
        # Two classes, the model answers class 0 for sure: a hard donor has label 1, an easy one label 0.
        observe(
            sampler, donors, torch.ones(32), targets=hard[donors].long(), weights=shares / shares.sum(1, keepdim=True)
        )
    torch.testing.assert_close(sampler.total / sampler.visits, hard.float())


def test_losses_alone_give_the_same_scores_as_probabilities():
    """For cross-entropy p[y] = exp(-loss)."""
    p = torch.tensor([0.2, 0.5, 0.9])
    with_probabilities, with_losses = make_sampler("p-sgd", 3, 2), make_sampler("p-sgd", 3, 2)
    observe(with_probabilities, [0, 1, 2], p)
    with_losses.observe(torch.arange(3), -p.log())
    torch.testing.assert_close(with_probabilities.total, with_losses.total)


def test_a_non_finite_loss_is_not_remembered():
    sampler = make_sampler("p-sgd", 3, 2)
    sampler.observe(torch.arange(3), torch.tensor([0.5, torch.nan, 1.0]))
    assert sampler.visits.tolist() == [1, 0, 1] and sampler.probabilities.isfinite().all()


def test_realised_inclusion_of_draws_without_replacement():
    """Reference: our own prototype: nominal 1.65 / 0.15 becomes 0.94 / 0.23 at a budget of 0.3."""
    n, epochs = 1000, 200
    sampler = make_sampler("p-sgd", n, 300, fraction=0.3)
    hard = torch.arange(n) < n // 10
    observe(sampler, torch.arange(n), (~hard).float())
    nominal = 0.3 * n * sampler.probabilities
    assert float(nominal[0]) == pytest.approx(1.65) and float(nominal[-1]) == pytest.approx(0.15)
    visits = torch.zeros(n)
    for _ in range(epochs):
        visits[sampler.propose().indices] += 1
    assert float(visits[hard].mean() / epochs) == pytest.approx(0.94, abs=0.005)
    assert float(visits[~hard].mean() / epochs) == pytest.approx(0.23, abs=0.005)
    inclusion = sampler.statistics()["inclusion"]
    assert inclusion["median"] == pytest.approx(0.23, abs=0.01) and inclusion["maximum"] <= 1


@pytest.mark.parametrize("name", ["p-sgd", "c-sgd"])
def test_an_epoch_is_the_budget_without_repeats(name):
    sampler = make_sampler(name, 100, 10, fraction=0.3)
    assert sampler.steps_per_epoch == 3
    rows = torch.cat([sampler.propose().indices for _ in range(3)])
    assert len(rows.unique()) == 30
