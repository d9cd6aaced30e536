"""Uniform samplers: what one epoch consists of. References: the definitions, counted."""

import pytest
import torch

from subsetopt.samplers import SAMPLERS, default_settings, make_sampler


def epoch_of(sampler):
    return torch.cat([sampler.propose().indices for _ in range(sampler.steps_per_epoch)])


def test_full_visits_everything_once_in_a_new_order():
    sampler = make_sampler("full", 50, 8)
    first, second = epoch_of(sampler), epoch_of(sampler)
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(50))
    assert not torch.equal(first, second)


def test_a_fixed_subset_stays_and_is_reshuffled():
    sampler = make_sampler("fixed-subset", 50, 8, fraction=0.3)
    first, second = epoch_of(sampler), epoch_of(sampler)
    assert set(first.tolist()) == set(second.tolist()) and len(first.unique()) == 15
    assert not torch.equal(first, second)


def test_a_random_weighted_subset_has_cluster_sizes_for_weights_and_is_redrawn():
    """Reference: w - 1 ~ Multinomial(N - k, 1/k), mean N/k - 1 and variance about N/k - 1; redrawn after 3."""
    n, k = 4000, 400
    sampler = make_sampler("random-weighted", n, k, fraction=k / n, scan_period=3)
    batches = [sampler.propose() for _ in range(4)]
    weights = batches[0].weights * n / k
    torch.testing.assert_close(weights, weights.round(), rtol=1e-5, atol=0)
    assert weights.sum() == pytest.approx(n) and weights.min() >= 1
    assert weights.var().item() == pytest.approx((n - k) / k, rel=0.3)
    subsets = [frozenset(batch.indices.tolist()) for batch in batches]
    assert subsets[0] == subsets[1] == subsets[2] != subsets[3] and len(subsets[3]) == k


def test_rs2_redraws_distinct_rows_and_srs_repeats_some():
    rs2, srs = (make_sampler(name, 200, 8, fraction=0.5) for name in ("rs2", "srs"))
    first, second = epoch_of(rs2), epoch_of(rs2)
    assert len(first.unique()) == len(second.unique()) == 100 and set(first.tolist()) != set(second.tolist())
    drawn = epoch_of(srs)
    assert len(drawn) == 100 and len(drawn.unique()) < 100


@pytest.mark.parametrize(("fraction", "rows"), [(0.25, 5 * 4 + 2), (1.0, 90), (0.01, 5 + 1)])
def test_random_minibatch_keeps_its_share_of_every_batch(fraction, rows):
    """90 samples in batches of 16 are five full ones and one of ten."""
    sampler = make_sampler("random-minibatch", 90, 16, fraction=fraction)
    kept = epoch_of(sampler)
    assert sampler.steps_per_epoch == 6 and sampler.epoch == 0
    assert len(kept) == len(kept.unique()) == rows


@pytest.mark.parametrize(("fraction", "rows"), [(0.29, 29), (0.1, 10), (0.001, 1), (1.0, 100)])
def test_a_share_is_rounded_down_but_not_by_rounding_errors(fraction, rows):
    """0.29 * 100 is 28.999999999999996 in floating point."""
    assert len(epoch_of(make_sampler("rs2", 100, 7, fraction=fraction))) == rows


NAMES = [entry.name for entry in SAMPLERS]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 129, 200])
@pytest.mark.parametrize("fraction", [None, 0.02, 0.52])
def test_the_batches_of_a_pass_differ_by_one_row_at_most(name, n, fraction):
    """129 rows in batches of 64 are 43, 43, 43, not 64, 64, 1: a step on one row is as long as one on 64.

    Reference: as many steps as ceil(rows / batch), as before, and sizes of floor or ceil of rows / steps.
    """
    if fraction is not None and "fraction" not in default_settings(name):
        pytest.skip("has no fraction")
    settings = {} if fraction is None else {"fraction": fraction}
    settings |= {"codes": "features", "query_every": 2} if name == "nw-sketch" else {}
    sampler = make_sampler(name, n, 64, **settings)
    opening = sampler.opening
    steps = sampler.steps_per_epoch
    assert steps == -(-sampler.epoch_rows // sampler.rows_per_proposal)
    for epoch in range(2):
        sizes = [len(sampler.propose().indices) for _ in range(steps)]
        assert opening == (sizes[0], sampler.selection_due) or epoch
        assert sum(sizes) == sampler.epoch_rows and max(sizes) - min(sizes) <= 1
        assert max(sizes) <= sampler.rows_per_proposal and sampler.epoch == epoch


def test_accepted_stale_rows_and_selected_rows_make_even_batches_too():
    """The queue of selective backprop hands out whole batches; what stale losses accept is shared evenly."""
    sampler = make_sampler("selective-backprop", 129, 64, stale_epochs=2, beta=0.0, p_min=1.0)
    sizes = []
    for _ in range(9):
        batch = sampler.propose()
        if sampler.selection_due:
            batch = sampler.select(batch, torch.rand(len(batch.indices)))
        if batch is not None:
            sampler.observe(batch.indices, torch.rand(len(batch.indices)))
            sizes.append(len(batch.indices))
    assert sizes == [43, 43, 43, 64, 64, 43, 43, 43]
