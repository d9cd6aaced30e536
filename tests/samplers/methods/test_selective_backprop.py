"""Selective Backprop: keep rates, the first epoch, stale losses by index, Composer's variant."""

import pytest
import torch

from subsetopt.samplers import make_sampler
from subsetopt.samplers.methods.selective_backprop import acceptance_probability, keep_by_rank
from subsetopt.seeding import make_generator


def test_percentiles_count_losses_strictly_below():
    """Reference: counted by hand."""
    history = torch.tensor([1.0, 2.0, 2.0, 3.0])
    p = acceptance_probability(torch.tensor([0.0, 1.0, 2.0, 2.5, 9.0]), history, 2.0, 0.1)
    torch.testing.assert_close(p, torch.tensor([0.1, 0.1, 0.1, 0.5625, 1.0]))


def run(sampler, losses, epochs):
    """Drive the loop with fixed losses; returns (batches trained on, candidates that were forwarded for selection)."""
    trained, forwarded = [], 0
    while sampler.epoch < epochs:
        batch = sampler.propose()
        if sampler.selection_due:
            forwarded += len(batch.indices)
            batch = sampler.select(batch, losses[batch.indices])
        if batch is not None:
            trained.append(batch)
            sampler.observe(batch.indices, losses[batch.indices])
    return trained, forwarded


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_the_keep_rate_is_the_fraction(fraction):
    """Reference: E[p] = 1 / (beta + 1) = q; 4 binomial standard errors beyond the discretisation 1 / (2R)."""
    losses = torch.randn(4096, generator=make_generator(0, "losses")).exp()
    sampler = make_sampler("selective-backprop", 4096, 64, fraction=fraction)
    trained, forwarded = run(sampler, losses, 6)
    selected = sum(len(batch.indices) for batch in trained) - 4096
    error = 4 * (fraction * (1 - fraction) / forwarded) ** 0.5
    assert selected / forwarded == pytest.approx(fraction, abs=error + 64 / forwarded + 0.002)
    assert sampler.statistics()["keep_rate"] < 1


def test_the_default_is_beta_three():
    assert make_sampler("selective-backprop", 10, 2).settings.exponent == 3
    assert make_sampler("selective-backprop", 10, 2, fraction=0.2).settings.exponent == pytest.approx(4)


def test_the_first_epoch_accepts_everything_without_a_selection_forward():
    sampler = make_sampler("selective-backprop", 64, 8)
    rows = []
    for _ in range(8):
        batch = sampler.propose()
        assert not sampler.selection_due
        assert sampler.select(batch, torch.rand(8)) is batch
        rows.append(batch.indices)
    assert torch.cat(rows).sort().values.tolist() == list(range(64))


def test_batches_are_full_and_accepted_samples_wait_in_the_queue():
    losses = torch.rand(512, generator=make_generator(0, "losses"))
    trained, _ = run(make_sampler("selective-backprop", 512, 32), losses, 10)
    assert {len(batch.indices) for batch in trained} == {32}


def test_high_losses_are_trained_on_more_often():
    """Reference: visits of a sample at rank u are in proportion to u^3."""
    losses = torch.arange(512, dtype=torch.float32) / 512
    trained, _ = run(make_sampler("selective-backprop", 512, 32), losses, 200)
    rows = torch.cat([batch.indices for batch in trained])[512:]
    visits = torch.bincount(rows, minlength=512).double().view(8, 64).sum(1)
    u = (torch.arange(512).double() / 512).pow(3).view(8, 64).sum(1)
    torch.testing.assert_close(visits / visits.sum(), u / u.sum(), atol=0.01, rtol=0)


def test_stale_losses_decide_by_sample_index_without_a_forward():
    """Peers' sampler fault 3. Every other sample has a loss of zero; the order is new every epoch.

    Attached by index, stale epochs accept from the high half alone; attached by position they would accept both.
    """
    losses = torch.where(torch.arange(256) % 2 == 0, 0.0, 1.0 + torch.arange(256) / 256)
    sampler = make_sampler("selective-backprop", 256, 16, stale_epochs=3, history=256)
    stale_rows, forwarded = [], []
    while sampler.epoch < 13:
        batch = sampler.propose()
        epoch, due = sampler.epoch, sampler.selection_due
        if due:
            forwarded.append(epoch)
            batch = sampler.select(batch, losses[batch.indices])
        elif epoch > 0:
            stale_rows.append(batch.indices)
        if batch is not None:
            sampler.observe(batch.indices, losses[batch.indices])
    assert set(forwarded) == {1, 4, 7, 10} | ({13} & set(forwarded))
    rows = torch.cat(stale_rows)
    assert len(rows) > 100 and (rows % 2 == 1).all()


def test_all_equal_losses_do_not_hang():
    """u = 0 for every sample, so nothing is accepted: the loop sees None and the sampler goes on."""
    sampler = make_sampler("selective-backprop", 32, 8, stale_epochs=2)
    trained, _ = run(sampler, torch.ones(32), 6)
    assert len(trained) == 4


def test_composer_keeps_the_floor_of_the_fraction_inside_its_window():
    """Reference: composer/algorithms/selective_backprop: window [0.5, 0.9), every second batch trained whole."""
    sampler = make_sampler("selective-backprop", 100, 10, variant="composer", fraction=0.35, total_steps=100)
    kept = []
    for _ in range(100):
        batch = sampler.propose()
        if sampler.selection_due:
            batch = sampler.select(batch, torch.rand(10, generator=make_generator(0, "t")))
        kept.append(len(batch.indices))
        sampler.observe(batch.indices, torch.ones(len(batch.indices)))
    inside = [3 if (step + 1) % 2 else 10 for step in range(50, 90)]
    assert kept == [10] * 50 + inside + [10] * 10


def test_composer_ranks_are_drawn_in_proportion_to_their_power():
    """Reference: first-order inclusion of one draw, ((rank - 1/2) / B)^{1/q - 1}, at floor(qB) = 1."""
    losses = torch.tensor([0.3, 0.1, 0.9, 0.5])
    generator, n = make_generator(0, "t"), 20_000
    counts = torch.zeros(4)
    for _ in range(n):
        counts[keep_by_rank(losses, 0.25, generator)] += 1
    weights = ((torch.tensor([2.0, 1.0, 4.0, 3.0]) - 0.5) / 4) ** 3
    torch.testing.assert_close(counts / n, weights / weights.sum(), atol=0.015, rtol=0)


def test_a_mixture_stores_its_loss_with_every_donor():
    """Reference: share-weighted means by hand."""
    sampler = make_sampler("selective-backprop", 4, 2, stale_epochs=2)
    donors = torch.tensor([[0, 1], [1, 2]])
    sampler.observe(donors, torch.tensor([1.0, 3.0]), weights=torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
    torch.testing.assert_close(sampler.stored[:3], torch.tensor([1.0, (0.25 + 1.5) / 0.75, 3.0]))
    assert sampler.stored[3].isnan()
