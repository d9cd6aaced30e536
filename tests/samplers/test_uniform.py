"""Uniform samplers: what one epoch consists of. References: the definitions, counted."""

import pytest
import torch

from subsetopt.samplers import make_sampler


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
